r"""The peer of `experiments.bench.epoch`: a program in PyTorch that trains the same epochs.

For every line on its standard input, it trains and evaluates one epoch, writes a checkpoint to
memory, and prints the seconds on the clock and of processor time that this took. All images are in
memory, and are flipped, rotated, padded and cropped by operations on whole batches. The networks
are ResNets, wide ResNets and ShuffleNetV1, without torch.compile. Only this file needs PyTorch.
"""

import argparse
import io
import json
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)


class BasicBlock(nn.Module):
    """conv, norm, ReLU, conv, norm, with a skip connection, then ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1, self.norm1 = conv(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.norm2 = conv(outputs, outputs), nn.BatchNorm2d(outputs)
        self.skip = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.skip = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(out)) + self.skip(x))


class WideBlock(nn.Module):
    """norm, ReLU, conv, twice, and a skip connection; projected ones start after the first ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), conv(inputs, outputs, 3, stride)
        self.norm2, self.conv2 = nn.BatchNorm2d(outputs), conv(outputs, outputs)
        self.skip = conv(inputs, outputs, 1, stride) if inputs != outputs else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        active = F.relu(self.norm1(x))
        out = self.conv2(F.relu(self.norm2(self.conv1(active))))
        return out + (self.skip(active) if self.skip else x)


class ShuffleBlock(nn.Module):
    """Grouped 1x1, shuffle, depthwise 3x3, grouped 1x1; plus a skip, or beside it at stride 2."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.stride, width = stride, outputs - inputs if stride == 2 else outputs
        hidden, self.groups = width // 4, 1 if inputs == 24 else 3
        self.conv1, self.norm1 = conv(inputs, hidden, 1, 1, self.groups), nn.BatchNorm2d(hidden)
        self.conv2, self.norm2 = conv(hidden, hidden, 3, stride, hidden), nn.BatchNorm2d(hidden)
        self.conv3, self.norm3 = conv(hidden, width, 1, 1, 3), nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.norm1(self.conv1(x)))
        out = F.channel_shuffle(out, self.groups)
        out = F.relu(self.norm2(self.conv2(out)))
        out = self.norm3(self.conv3(out))
        if self.stride == 1:
            return F.relu(out + x)
        return F.relu(torch.cat([out, F.avg_pool2d(x, 3, 2, 1)], 1))


class Network(nn.Module):
    """A network of stem, blocks, neck and classifier; returns (logits, embed) of images."""

    def __init__(self, stem: nn.Module, blocks: list[nn.Module], neck: nn.Module, width: int):
        super().__init__()
        self.body, self.width = nn.Sequential(stem, *blocks, neck), width
        self.classifier = nn.Linear(width, 100)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        embed = self.body(image).mean((2, 3))
        return self.classifier(embed), embed


def normed(convolution: nn.Conv2d) -> nn.Module:
    return nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU())


def network(name: str) -> Network:
    """The network of a name: resnetD, resnetDx4, wrn_D_W or ShuffleV1."""
    if name == "ShuffleV1":
        block, widths, depths = ShuffleBlock, (24, 240, 480, 960), (4, 8, 4)
        stem, strides, neck = normed(conv(3, 24, 1)), (2, 2, 2), nn.Identity()
    elif name.startswith("wrn"):
        depth, wide = (int(part) for part in name.split("_")[1:])
        block, widths = WideBlock, (16, 16 * wide, 32 * wide, 64 * wide)
        depths, strides, stem = [(depth - 4) // 6] * 3, (1, 2, 2), conv(3, 16)
        neck = nn.Sequential(nn.BatchNorm2d(widths[-1]), nn.ReLU())
    else:
        depth, _, wide = name.removeprefix("resnet").partition("x")
        first, wide = (32, int(wide)) if wide else (16, 1)
        block, widths = BasicBlock, (first, 16 * wide, 32 * wide, 64 * wide)
        depths = [(int(depth) - 2) // 6] * 3
        stem, strides, neck = normed(conv(3, first)), (1, 2, 2), nn.Identity()
    blocks = []
    for stage in range(3):
        for i in range(depths[stage]):
            inputs = widths[stage] if i == 0 else widths[stage + 1]
            blocks.append(block(inputs, widths[stage + 1], strides[stage] if i == 0 else 1))
    return Network(stem, blocks, neck, widths[-1])


MEAN = torch.tensor((0.5071, 0.4866, 0.4409)).view(1, 3, 1, 1)
STD = torch.tensor((0.2675, 0.2565, 0.2761)).view(1, 3, 1, 1)


def normalise(image: torch.Tensor) -> torch.Tensor:
    return (image.float() / 255 - MEAN) / STD


def views(image: torch.Tensor, count: int) -> torch.Tensor:
    """Rows [N * count, 3, 32, 32]: u8 images flipped at random, in `count` rotations, cropped."""
    images = len(image)
    flip = torch.rand(images, 1, 1, 1) < 0.5
    image = torch.where(flip, image.flip(3), image)
    turned = torch.stack([torch.rot90(image, k, (2, 3)) for k in range(count)], 1).flatten(0, 1)
    padded = F.pad(turned, (4, 4, 4, 4))
    top, left = torch.randint(0, 9, (2, len(turned), 1))
    place = torch.arange(32)
    row, column = (top + place)[:, None, :, None], (left + place)[:, None, None, :]
    which, channel = torch.arange(len(turned)).view(-1, 1, 1, 1), torch.arange(3).view(1, 3, 1, 1)
    return normalise(padded[which, channel, row, column])


def divergence(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """Mean over rows of the softened Kullback-Leibler divergence, times temperature squared."""
    logs = F.log_softmax(student / temperature, 1)
    wanted = F.softmax(teacher / temperature, 1)
    return F.kl_div(logs, wanted, reduction="batchmean") * temperature**2


def split(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The normal and the transformed views of rows [4 N, ...]."""
    rows = rows.view(-1, 4, rows.shape[1])
    return rows[:, 0], rows[:, 1:].flatten(0, 1)


def similarity(projected: torch.Tensor) -> torch.Tensor:
    normal, transformed = split(F.normalize(projected, dim=1))
    return transformed @ normal.T


def least_wrong(scores: torch.Tensor, target: torch.Tensor, share: float) -> torch.Tensor:
    """Indices of all correct rows and, of the wrong ones, of the share that is least wrong."""
    rank = (scores > scores.gather(1, target[:, None])).sum(1)
    wrong = int((rank > 0).sum())
    return rank.argsort(stable=True)[: len(rank) - wrong + int(share * wrong)]


class Program:
    """The training of a student, which sees every image in `views` rotations."""

    views = 1

    def __init__(self, args: argparse.Namespace):
        self.layout = torch.channels_last if args.channels_last else torch.contiguous_format
        self.batch_size, self.student = args.batch_size, self.network(args.student)
        self.image, self.label = self.random_images(args.steps * args.batch_size)
        self.test_image, self.test_label = self.random_images(args.images)

    def network(self, name: str) -> Network:
        return network(name).to(memory_format=self.layout)

    def pixels(self, image: torch.Tensor) -> torch.Tensor:
        return views(image, self.views).contiguous(memory_format=self.layout)

    @staticmethod
    def random_images(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
        return image, torch.randint(0, 100, (count,))

    def epoch(self) -> None:
        self.student.train()
        sums = torch.zeros(())
        for index in torch.randperm(len(self.image)).split(self.batch_size):
            loss = self.loss(self.image[index], self.label[index])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            sums += loss.detach()
        self.evaluate()
        states = [self.student.state_dict(), self.optimizer.state_dict(), float(sums)]
        torch.save(states, io.BytesIO())

    @torch.no_grad()
    def evaluate(self) -> int:
        """The number of correct predictions on the test images, plus that of `paired` rotations."""
        self.student.eval()
        right = 0
        parts = (part.split(self.batch_size) for part in (self.test_image, self.test_label))
        for image, label in zip(*parts, strict=True):
            turns = [torch.rot90(image, k, (2, 3)) for k in range(self.views)]
            pixels = normalise(torch.stack(turns, 1).flatten(0, 1))
            logits, embed = self.student(pixels.contiguous(memory_format=self.layout))
            right += int((logits[:: self.views].argmax(1) == label).sum()) + self.paired(embed)
        return right

    def paired(self, embed: torch.Tensor) -> int:
        return 0


class KD(Program):
    """KD: a student and a frozen teacher, each with a head whose output only SSKD uses."""

    def __init__(self, args: argparse.Namespace):
        super().__init__(args)
        self.teacher = self.network(args.teacher).eval()
        self.heads = [self.head(net.width) for net in (self.student, self.teacher)]
        learned = [*self.student.parameters(), *self.heads[0].parameters()]
        self.optimizer = torch.optim.SGD(learned, 0.05, momentum=0.9, weight_decay=5e-4)

    @staticmethod
    def head(width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def loss(self, image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        pixels = self.pixels(image)
        logits, embed = self.student(pixels)
        with torch.no_grad():
            t_logits, t_embed = self.teacher(pixels)
        if self.views == 1:
            return 0.1 * F.cross_entropy(logits, label) + 0.9 * divergence(logits, t_logits, 4)
        (normal, turned), (t_normal, t_turned) = split(logits), split(t_logits)
        with torch.no_grad():
            theirs = similarity(self.heads[1](t_embed))
        ours = similarity(self.heads[0](embed))
        own = torch.arange(len(ours)) // 3
        some = least_wrong(theirs, own, 0.75)
        return (
            0.1 * F.cross_entropy(normal, label)
            + 0.9 * divergence(normal, t_normal, 4)
            + 2.7 * divergence(turned, t_turned, 4)
            + 10 * divergence(ours[some], theirs[some], 0.5)
        )


class SSKD(KD):
    """SSKD: KD with four rotations of every image, and the contrastive task."""

    views = 4

    def paired(self, embed: torch.Tensor) -> int:
        scores = similarity(self.heads[0](embed))
        return int((scores.argmax(1) == torch.arange(len(scores)) // 3).sum())


class DER(Program):
    """DER++: the new images and two draws from a buffer, each in a forward pass of its own."""

    def __init__(self, args: argparse.Namespace):
        super().__init__(args)
        self.optimizer = torch.optim.SGD(self.student.parameters(), 0.03)
        self.stored_image, self.stored_label = self.random_images(args.buffer_size)
        self.stored_logits = torch.zeros(args.buffer_size, 100)
        self.seen = 0

    def loss(self, image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        logits, _ = self.student(self.pixels(image))
        loss = F.cross_entropy(logits, label)
        if self.seen:
            one, other = self.draw(), self.draw()
            today, _ = self.student(self.pixels(self.stored_image[one]))
            loss = loss + 0.1 * F.mse_loss(today, self.stored_logits[one])
            today, _ = self.student(self.pixels(self.stored_image[other]))
            loss = loss + 0.5 * F.cross_entropy(today, self.stored_label[other])
        self.store(image, label, logits.detach())
        return loss

    def draw(self) -> torch.Tensor:
        """Random positions in the buffer: a batch of them, or fewer while it holds fewer images."""
        return torch.randperm(min(self.seen, len(self.stored_label)))[: self.batch_size]

    def store(self, image: torch.Tensor, label: torch.Tensor, logits: torch.Tensor) -> None:
        """Stores a batch by reservoir sampling, image by image."""
        for i in range(len(label)):
            size = len(self.stored_label)
            place = self.seen if self.seen < size else int(torch.randint(self.seen + 1, ()))
            self.seen += 1
            if place < size:
                self.stored_image[place], self.stored_label[place] = image[i], label[i]
                self.stored_logits[place] = logits[i]


PROGRAMS = {"kd": KD, "sskd": SSKD, "der": DER}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--method")
    parser.add_argument("--teacher")
    parser.add_argument("--student")
    for number in ("steps", "batch_size", "images", "buffer_size"):
        parser.add_argument(f"--{number}", type=int)
    parser.add_argument("--channels_last", action="store_true")
    args = parser.parse_args()
    program = PROGRAMS[args.method](args)
    for _ in sys.stdin:
        began, processor = time.perf_counter(), time.process_time()
        program.epoch()
        wall, busy = time.perf_counter() - began, time.process_time() - processor
        print(json.dumps({"seconds": wall, "processor": busy}), flush=True)


if __name__ == "__main__":
    main()
