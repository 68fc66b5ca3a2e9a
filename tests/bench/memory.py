"""Memory at hand: what is measured is the readers, not what their machine's host takes to lend a page."""

import mmap
import os


def have_at_hand(megabytes: float) -> None:
    """See to it that the next so many megabytes that this machine gives out are there.

    A virtual machine may hand its free memory back to its host (Linux: free page reporting); a page is then fetched
    anew at its first touch, at up to twenty times the cost. What was taken and freed a moment ago is handed out next.
    """
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    size = min(int(megabytes * 1e6), free // 2)
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE) as taken:
        taken.madvise(mmap.MADV_HUGEPAGE)
        taken[:: mmap.PAGESIZE] = bytes(len(range(0, size, mmap.PAGESIZE)))
