"""How do records in Kafka become a trained network?

Run `python examples/digits.py`: digits go to a topic, come back as two datasets, and train a network to 95 % or more.
"""

import argparse
from contextlib import ExitStack

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from kafkapipes import KafkaSink, TrainingKafkaDataset
from kafkapipes.testing import EmbeddedKafka


def to_input(images, labels):
    return images[:, None] / 16, labels.long()  # [B, 1, 8, 8], pixels from 0 to 1


def through_kafka(servers, topic, images, labels):
    with KafkaSink(topic, servers) as sink:
        sink.send_batch(images.reshape(-1, 8, 8).astype("uint8"), labels.astype("uint8"))
    dataset = TrainingKafkaDataset(sink.control_message, servers, "digits")
    print(f"published {sink.control_message.topic}, read {dataset.report}")
    return dataset


def train_step(model, optimizer, images, labels):
    loss = nn.functional.cross_entropy(model(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item() * len(labels)


def draw(dataset, predicted, losses):
    figure = Figure(figsize=(12, 5), layout="constrained")
    digits, curve = figure.subfigures(1, 2, width_ratios=(3, 2))
    wrong = predicted != dataset.labels
    digits.suptitle(f"label → prediction: {wrong.sum()} of {len(wrong)} test digits are wrong, they come first")
    for axes, row in zip(digits.subplots(5, 10).flat, wrong.int().argsort(descending=True, stable=True), strict=False):
        axes.imshow(dataset.values[row].numpy(), cmap="gray_r")
        axes.set_title(f"{dataset.labels[row]} → {predicted[row]}", color="red" if wrong[row] else "black")
        axes.set_axis_off()
    curve.subplots(subplot_kw={"title": "loss by epoch"}).plot(range(1, len(losses) + 1), losses, marker="o")
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bootstrap-servers", metavar="HOST:PORT", help="default: a broker inside this process")
    parser.add_argument("--topic", default="digits")
    parser.add_argument("--output", default="digits.png")
    args = parser.parse_args()
    torch.manual_seed(0)
    parts = train_test_split(*load_digits(return_X_y=True), test_size=0.2, random_state=0)
    with ExitStack() as stack:
        servers = args.bootstrap_servers or stack.enter_context(EmbeddedKafka()).bootstrap_servers
        training, testing = [through_kafka(servers, args.topic, *part) for part in (parts[::2], parts[1::2])]
    model = nn.Sequential(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 6 * 6, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    loader = training.loader(batch_size=32, shuffle=True, batch_transform=to_input)
    losses = [sum(train_step(model, optimizer, *batch) for batch in loader) / len(training) for _ in range(15)]
    print("loss by epoch", *(f"{loss:.3f}" for loss in losses))
    images, labels = to_input(testing.values, testing.labels)
    predicted = model(images).argmax(1)
    accuracy = (predicted == labels).double().mean()
    draw(testing, predicted, losses).savefig(args.output, dpi=120)
    print(f"test accuracy {accuracy:.1%}, picture in {args.output}")
    if accuracy < 0.95:
        raise SystemExit("the test accuracy is below 95 %")


if __name__ == "__main__":
    main()
