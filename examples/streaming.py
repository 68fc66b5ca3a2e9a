"""How does training go on after a kill, and end with the very same weights?

Run `python examples/streaming.py`: it trains twice in processes of their own, and kills the second one amid an epoch.
"""

import argparse
import multiprocessing
import os
import signal
import tempfile
from contextlib import ExitStack
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torchdata.stateful_dataloader import StatefulDataLoader

from kafkapipes import KafkaSink, StreamingKafkaDataset
from kafkapipes.testing import EmbeddedKafka


def train(servers, message, checkpoint, args, kill_at=0):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    dataset = StreamingKafkaDataset(message, servers, "streaming", shuffle=True, batch_size=32)
    loader = StatefulDataLoader(dataset, batch_size=None, num_workers=args.workers)
    parts, step, first_epoch = {"model": model, "optimizer": optimizer, "loader": loader}, 0, 0
    if checkpoint.exists():
        saved = torch.load(checkpoint)
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        step, first_epoch = saved["step"], saved["epoch"]
        print(f"goes on behind step {step}", flush=True)
    for epoch in range(first_epoch, args.epochs):
        dataset.set_epoch(epoch)
        for values, labels in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(values.float()), labels).backward()
            optimizer.step()
            step += 1
            if step == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            if step % 10 == 0:
                states = {name: part.state_dict() for name, part in parts.items()}
                torch.save({**states, "step": step, "epoch": epoch}, f"{checkpoint}.new")
                os.replace(f"{checkpoint}.new", checkpoint)  # there is always a whole one
    torch.save(model.state_dict(), f"{checkpoint}.weights")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bootstrap-servers", metavar="HOST:PORT", help="default: a broker inside this process")
    parser.add_argument("--topic", default="digits")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kill-at", type=int, default=77, help="the step behind which the second one is killed")
    args = parser.parse_args()
    with ExitStack() as stack:
        servers = args.bootstrap_servers or stack.enter_context(EmbeddedKafka()).bootstrap_servers
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        digits = load_digits()
        with KafkaSink(args.topic, servers) as sink:
            sink.send_batch(digits.images.astype("uint8"), digits.target)
        new_process = multiprocessing.get_context("spawn").Process
        for name, kill_at in (("undisturbed", 0), ("disturbed", args.kill_at), ("disturbed", 0)):
            training = new_process(target=train, args=(servers, sink.control_message, folder / name, args, kill_at))
            training.start()
            training.join()
            print(f"training ended with {training.exitcode}")
        weights = [torch.load(folder / f"{name}.weights") for name in ("undisturbed", "disturbed")]
    if not all(torch.equal(one, other) for one, other in zip(*(part.values() for part in weights), strict=True)):
        raise SystemExit("the weights differ")
    print("both have the same weights, bit for bit")


if __name__ == "__main__":
    main()
