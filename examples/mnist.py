"""How does MNIST go through Kafka into a convolutional network?

Run `python examples/mnist.py --download FOLDER` (with torchvision), or `--idx FOLDER` where the four IDX files are.
"""

import argparse
import gzip
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from torch import nn

from kafkapipes import KafkaSink, TrainingKafkaDataset
from kafkapipes.testing import EmbeddedKafka


def to_input(images, labels):
    return images[:, None] / 255, labels.long()  # [B, 1, 28, 28], pixels from 0 to 1


def read_idx(folder, name):
    path = min(Path(folder).glob(f"{name}-idx?-ubyte*"), default=None)
    if path is None:
        raise SystemExit(f"{folder} has no file {name}-idx?-ubyte, plain or .gz")
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    shape = np.frombuffer(content, ">u4", content[3], offset=4)  # byte 3 counts the dimensions
    return np.frombuffer(content, "u1", offset=4 + 4 * len(shape)).reshape(shape)


def through_kafka(servers, topic, images, labels):
    with KafkaSink(topic, servers) as sink:
        sink.send_batch(images, labels)
    dataset = TrainingKafkaDataset(sink.control_message, servers, "mnist")
    print(f"published {sink.control_message.topic}, read {dataset.report}")
    return dataset


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--download", metavar="FOLDER", help="let torchvision fetch MNIST into this folder")
    source.add_argument("--idx", metavar="FOLDER", help="take the IDX files in this folder, plain or .gz")
    parser.add_argument("--bootstrap-servers", metavar="HOST:PORT", help="default: a broker inside this process")
    parser.add_argument("--topic", default="mnist")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--limit", type=int, default=60_000, help="most records to train on; a fifth of it to test")
    args = parser.parse_args()
    if args.download:
        from torchvision.datasets import MNIST

        args.idx = MNIST(args.download, download=True).raw_folder
    if not args.bootstrap_servers:
        print("the embedded broker keeps 5 MB of a partition: no more than 5000 records to train on")
        args.limit = min(args.limit, 5000)
    torch.manual_seed(0)
    parts = ("train", args.limit), ("t10k", args.limit // 5)
    arrays = [[read_idx(args.idx, f"{part}-{kind}")[:limit] for kind in ("images", "labels")] for part, limit in parts]
    with ExitStack() as stack:
        servers = args.bootstrap_servers or stack.enter_context(EmbeddedKafka()).bootstrap_servers
        training, testing = [through_kafka(servers, args.topic, *columns) for columns in arrays]
    model = nn.Sequential(nn.Conv2d(1, 32, 5), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(32 * 6 * 6, 10))
    optimizer = torch.optim.Adam(model.parameters())
    train_loader = training.loader(batch_size=32, shuffle=True, batch_transform=to_input)
    test_loader = testing.loader(batch_size=500, batch_transform=to_input)
    for epoch in range(1, args.epochs + 1):
        for images, labels in train_loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
        right = sum((model(images).argmax(1) == labels).sum() for images, labels in test_loader)
        print(f"epoch {epoch}: test accuracy {right / len(testing):.1%}")


if __name__ == "__main__":
    main()
