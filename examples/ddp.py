"""How do several processes train one model on one stream?

Run `torchrun --nproc-per-node 2 examples/ddp.py`, or `python examples/ddp.py` for a single process.
"""

import argparse
import os
from contextlib import ExitStack

import torch
from sklearn.datasets import load_digits
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from kafkapipes import KafkaSink, StreamingKafkaDataset
from kafkapipes.testing import EmbeddedKafka

ALONE = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}  # torchrun sets these


def publish(servers, topic):
    """Rank 0 publishes, and tells the others where."""
    told = [servers, None]
    if distributed.get_rank() == 0:
        digits = load_digits()
        with KafkaSink(topic, servers) as sink:
            sink.send_batch(digits.images.astype("float32") / 16, digits.target)
        told[1] = sink.control_message.to_dict()
    distributed.broadcast_object_list(told)
    return told


def train(dataset, epochs, workers):
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    loader = DataLoader(dataset, batch_size=None, num_workers=workers)
    for epoch in range(epochs):
        dataset.set_epoch(epoch)
        counts = torch.zeros(2)
        for values, labels in loader:
            optimizer.zero_grad()
            logits = model(values)
            nn.functional.cross_entropy(logits, labels).backward()
            optimizer.step()
            counts += torch.tensor([len(labels), (logits.argmax(1) == labels).sum()])
        distributed.all_reduce(counts)
        if distributed.get_rank() == 0:
            print(f"epoch {epoch + 1}: {counts[0]:.0f} samples, accuracy {counts[1] / counts[0]:.1%}", flush=True)
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bootstrap-servers", metavar="HOST:PORT", help="default: a broker inside rank 0")
    parser.add_argument("--topic", default="digits")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--workers", type=int, default=0)
    args = parser.parse_args()
    os.environ.update({name: text for name, text in ALONE.items() if name not in os.environ})
    distributed.init_process_group("gloo")
    with ExitStack() as stack:
        servers = args.bootstrap_servers
        if not servers and distributed.get_rank() == 0:
            servers = stack.enter_context(EmbeddedKafka()).bootstrap_servers
        servers, message = publish(servers, args.topic)
        # Each rank gets as many batches as any other: none waits for gradients that never come.
        dataset = StreamingKafkaDataset(message, servers, "ddp", shuffle=True, batch_size=32, equal_ranks="drop")
        model = train(dataset, args.epochs, args.workers)
        distributed.barrier()  # the broker stays until all have read
    weights = sum(part.double().sum().item() for part in model.parameters())
    print(f"rank {distributed.get_rank()}: {len(dataset)} steps an epoch, weights sum up to {weights:.9f}")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
