#!/usr/bin/env bash
# The tests of the clients in C, with that under a sanitizer: `tests/kafka/sanitize.sh address` (the default), `thread`
# or `valgrind`, in an environment with the tests' packages. It needs gcc's sanitizers, or valgrind.
set -euo pipefail
kind=${1:-address}
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
git ls-files -z -- kafkapipes tests setup.cfg | xargs -0 cp --parents -t "$work"
cd "$work"
include=$(python -c "import sysconfig; print(sysconfig.get_path('include'))")
flags=(-g -O1 -fno-omit-frame-pointer)
[ "$kind" = valgrind ] || flags+=("-fsanitize=$kind")
[ "$kind" != address ] || flags+=(-fsanitize=undefined -fno-sanitize-recover=undefined)
for name in _native _batches; do
    gcc -shared -fPIC "${flags[@]}" -DPy_LIMITED_API=0x030B0000 -I"$include" "kafkapipes/kafka/$name.c" -o "kafkapipes/kafka/$name.abi3.so" \
        -Wall -Wextra -Wno-unused-parameter -Wno-missing-field-initializers -Wno-cast-function-type
done
export PYTHONMALLOC=malloc PYTHONFAULTHANDLER=1
tests=(tests/kafka/test_direct.py tests/kafka/test_native.py tests/kafka/test_client.py tests/kafka/test_fetcher.py
    tests/test_dataset.py::test_samples_do_not_depend_on_the_number_of_readers)
pytest=(python -m pytest -q -p no:cacheprovider --timeout 1800)
case $kind in
    address)
        export ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:quarantine_size_mb=0 UBSAN_OPTIONS=print_stacktrace=1
        LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)" "${pytest[@]}" "${tests[@]}"
        ;;
    thread)  # what others built without it is not looked at; its memory map wants no random addresses
        # It knows the threads of POSIX alone: those of C11, which librdkafka starts, crash in it.
        gcc -shared -fPIC -fsanitize=thread -x c - -o threads.so <<'C'
#include <pthread.h>
#include <stdint.h>
#include <threads.h>

int thrd_create(thrd_t *thread, thrd_start_t run, void *argument) {
    return pthread_create(thread, NULL, (void *(*)(void *))(void *)run, argument) ? thrd_error : thrd_success;
}

int thrd_join(thrd_t thread, int *result) {
    void *value;
    if (pthread_join(thread, &value)) return thrd_error;
    if (result) *result = (int)(intptr_t)value;
    return thrd_success;
}
C
        export TSAN_OPTIONS="ignore_noninstrumented_modules=1 exitcode=66 halt_on_error=0"
        LD_PRELOAD="$(gcc -print-file-name=libtsan.so) $work/threads.so" setarch -R "${pytest[@]}" "${tests[@]}"
        ;;
    valgrind)
        valgrind --quiet --undef-value-errors=no --trace-children=no --log-file="$work/log" \
            "${pytest[@]}" tests/kafka/test_direct.py tests/kafka/test_native.py -k "not interpreter and not memory"
        ! grep -nE "_native|_batches" "$work/log" # what it finds elsewhere is not looked at
        ;;
    *)
        echo "address, thread or valgrind, not $kind" >&2
        exit 2
        ;;
esac
