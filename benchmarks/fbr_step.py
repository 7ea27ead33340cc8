"""FBR's step: its parts, the literal way beside it, how it grows, and what it adds to a training.

Everything on the GPU where there is one. Ratios of one run are worth more than its milliseconds.

    python -m benchmarks.fbr_step [--full]

--full: more steps, the largest sizes, and ResNet-50 at 512 pixels, which takes minutes on a CPU.
"""

import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from statistics import median
from time import perf_counter

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import resident
from fbr import params
from fbr.cam import fbr as plugin
from fbr.cam import seeds as reading
from fbr.datasets import toy
from fbr.nets import backbones
from fbr.nets.inputs import normalise
from fbr.nets.precision import autocast, has_bfloat16
from fbr.stages.networks import cam_method
from fbr.train.processes import keep_memory

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
BATCH, GRID, CHANNELS, CLASSES = 16, 32, 2048, 20  # AMN's setting
PARTS = {
    "read": "seeds",
    "_remember": "NROIs, bank",
    "_contrasts": "contrasts",
    "_segmentation": "L_seg",
    "_watched": "watching",
}
SETTINGS = params.load()


def numbers(bank=100_000):
    """AMN's: seeds from the softmax of 1 + 20 logits."""
    recipe = SETTINGS.of("cam_train", {"cam": "plain_fbr", "data": "voc"})
    amn = {"scores": "softmax", "seed_background": "learned", "bank": bank}
    return recipe.fbr.model_copy(update=amn)


class Given(plugin.Background):
    """FBR whose features are the projections, side by side."""

    def project(self, features):
        return features.permute(0, 2, 3, 1).flatten(1, 2).split(self.numbers.width, 2)


class Setting:
    """FBR with a full bank, and a batch for it: images that show one to three classes in blobs."""

    def __init__(self, given=True, images=BATCH, grid=GRID, bank=100_000):
        generator = torch.Generator().manual_seed(0)
        chosen = numbers(bank)
        channels = 2 * chosen.width if given else CHANNELS
        self.module = (Given if given else plugin.Background)(channels, CLASSES, chosen)
        self.module.bank.rows.uniform_(generator=generator)
        self.module.bank.pushed.fill_(bank)
        self.module.to(DEVICE).train()
        ranks = torch.rand(images, CLASSES, generator=generator).argsort(1)
        label = (ranks < torch.randint(1, 4, (images, 1), generator=generator)).float()
        coarse = torch.randn(images, 1 + CLASSES, 5, 5, generator=generator)
        scores = 2 * F.interpolate(coarse, size=(grid, grid), mode="bicubic")
        scores[:, 1:] -= 3 * (1 - label)[:, :, None, None]
        lean = not given and has_bfloat16(DEVICE.type)
        kind = torch.bfloat16 if lean else torch.float32  # as autocast leaves a backbone
        features = torch.empty(images, channels, grid, grid, dtype=kind)
        features = features.to(memory_format=torch.channels_last)
        features.normal_(generator=generator).relu_()
        self.features = features.to(DEVICE).requires_grad_()
        self.scores = scores.to(DEVICE)
        self.batch = {"label": label.to(DEVICE), "seed": 0, "step": 0}

    def losses(self):
        self.batch["step"] += 1
        with autocast(DEVICE.type, True):
            return self.module(self.features, self.scores, self.batch)

    def step(self):
        """Forward and backward."""
        backward(self.losses())
        self.features.grad = None

    def projections(self):
        """Forward and backward of the two projections alone."""
        with autocast(DEVICE.type, True):
            torch.cat(self.module.project(self.features)).sum().backward()
        self.features.grad = None

    def queries(self):
        n = self.module.numbers
        found = reading.seeds(self.scores.flatten(2), self.batch["label"], n)
        return found, reading.unsure(found, n)


def backward(losses):
    means = [x if isinstance(x, Tensor) else x[0] / x[1] for x in losses.values()]
    # What is only watched has no gradient.
    sum(x for x in means if x.requires_grad).backward()


def now():
    """Milliseconds, when the device has done what it was asked to."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return 1000 * perf_counter()


def timed(steps, *calls, warm=2):
    """Median milliseconds of each call; they take turns."""
    spent = [[] for _ in calls]
    for _ in range(warm + steps):
        for call, times in zip(calls, spent, strict=True):
            start = now()
            call()
            times.append(now() - start)
    return [median(times[warm:]) for times in spent]


# Part by part


def parts(steps):
    """Median milliseconds of each part of a forward pass from projections, and of the backward."""
    setting = Setting()
    spent = {name: [] for name in (*PARTS.values(), "the rest, L_sim", "backward")}

    def watch(method, times):
        def call(*given):
            start = now()
            result = method(*given)
            times.append(now() - start)
            return result

        return call

    for method, name in PARTS.items():
        setattr(setting.module, method, watch(getattr(setting.module, method), spent[name]))
    for _ in range(2 + steps):
        start = now()
        losses = setting.losses()
        middle = now()
        backward(losses)
        spent["backward"].append(now() - middle)
        inside = sum(spent[name][-1] for name in PARTS.values())
        spent["the rest, L_sim"].append(middle - start - inside)
    return {name: median(times[2:]) for name, times in spent.items()}


def extra_memory(given):
    """Megabytes that one step needs beside its inputs, its weights and its bank.

    On a CPU, what the memory of a process rises by at most; the process should be a fresh one.
    """
    Setting(given, images=1, grid=8, bank=100).step()  # libraries come into memory
    setting = Setting(given)
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        setting.step()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    before = resident("VmRSS")
    setting.step()
    # Not `getrusage`: its peak begins with that of the process that started this one.
    return resident("VmHWM") - before


def show_parts(steps):
    given, whole = Setting(), Setting(given=False)
    found, asked = given.queries()
    print(
        f"batch {BATCH}, grid {GRID}×{GRID}, {CLASSES} classes, bank 100,000, "
        f"{int(asked.sum())} queries of {len(found.label.unique()) - 1} classes; ms"
    )
    for name, spent in parts(steps).items():
        print(f"  {name:<28}{spent:8.1f}")
    forward, both, features, projections = timed(
        steps, given.losses, given.step, whole.step, whole.projections
    )
    print(f"from projections: {both:.1f} ms, {forward:.1f} of them forward")
    print(f"from {CHANNELS} channels: {features:.1f} ms, {projections:.1f} alone to project")
    del given, whole
    with ProcessPoolExecutor(2, mp_context=get_context("spawn"), max_tasks_per_child=1) as fresh:
        least, most = fresh.map(extra_memory, (True, False))
    print(f"extra memory: {least:.0f} MB from projections, {most:.0f} MB from channels")
    return both


# The literal way


class Literal:
    """A step as the released code takes it, told from its description: lists, loops, copies.

    One image or class at a time; each query draws for itself, index by index, and gathers its keys;
    the bank grows by concatenation and goes to the device for each class. k-means and bank are the
    CPU's. What that code lacks is not counted here either: L_seg and a backward pass. The cosine
    runs over channels, so that the losses can be compared. Seeds are ours.
    """

    def __init__(self, setting):
        self.numbers, self.scores = setting.module.numbers, setting.scores
        self.labels = setting.batch["label"]
        self.z, self.u = (part.detach() for part in setting.module.project(setting.features))
        self.bank = setting.module.bank.rows.cpu()

    def clustered(self, found, restarts):
        from sklearn.cluster import KMeans
        from threadpoolctl import threadpool_limits

        with threadpool_limits(1):
            grounds = [u[label == 0].cpu() for u, label in zip(self.u, found.label, strict=True)]
            return [
                KMeans(self.numbers.nrois, n_init=restarts).fit(g).cluster_centers_ for g in grounds
            ]

    def queries(self, found):
        asked = torch.zeros_like(found.label, dtype=torch.bool)
        for image, label in enumerate(found.label):
            sure = torch.zeros_like(label, dtype=torch.bool)
            for c in label.unique().tolist():
                score, own = found.score[image, c], label == c
                ranked = score[own & (score > self.numbers.unsure_floor)].sort().values
                if len(ranked):
                    at = int(len(ranked) * self.numbers.unsure_rank)
                    sure |= own & (score > ranked[at])
            chance = found.chance[image]
            entropy = -(chance * (chance + 1e-10).log()).sum(0)
            least = entropy.quantile(self.numbers.unsure_entropy)
            asked[image] = (label > 0) & ~sure & (entropy > least)
        return asked

    def losses(self, restarts):
        """L_fb and L_if, unweighted."""
        n, pixels = self.numbers, self.z.flatten(0, 1)
        found = reading.seeds(self.scores.flatten(2), self.labels, n)
        asked, label = self.queries(found).flatten(), found.label.flatten()
        centres = torch.from_numpy(np.concatenate(self.clustered(found, restarts)))
        self.bank = torch.cat([self.bank, centres])[-n.bank :]
        prototypes = reading.prototypes(found, self.z, self.z.shape[1] // n.prototype_part)
        present = [c for c in label.unique().tolist() if c > 0]
        of_class = {c: pixels[label == c] for c in present}
        l_fb = l_if = 0
        for c in present:
            queries, others = pixels[(label == c) & asked], [o for o in present if o != c]
            rows = self.rows(len(queries))
            l_fb += self.contrast(queries, prototypes[c - 1], rows)
            near = F.cosine_similarity(
                prototypes[c - 1], torch.stack([prototypes[o - 1] for o in others]), dim=1
            )
            rows = self.pixels(len(queries), near, [of_class[o] for o in others])
            l_if += self.contrast(queries, prototypes[c - 1], rows)
        return l_fb / len(present), l_if / len(present)

    def rows(self, count):
        """Rows of the bank for each of so many queries."""
        bank, index = self.bank.to(self.z.device), []
        for _ in range(count):
            index += torch.randint(len(bank), (self.numbers.negatives,)).tolist()
        return bank[index]

    def pixels(self, count, near, of_class):
        """Pixels of the other classes for each of so many queries, more of those that are near."""
        random, index = np.random.default_rng(0), []
        graph = torch.distributions.Categorical(logits=near / self.numbers.temperature)
        picks = graph.sample((count, self.numbers.negatives))
        ends = np.cumsum([len(pixels) for pixels in of_class])
        for times in torch.stack([(picks == o).sum(1) for o in range(len(near))], 1).tolist():
            for pixels, end, many in zip(of_class, ends, times, strict=True):
                index += random.integers(end - len(pixels), end, many).tolist()
        return torch.cat(of_class)[index]

    def contrast(self, queries, prototype, negatives):
        negatives = negatives.view(len(queries), self.numbers.negatives, -1)
        keys = torch.cat([prototype.expand(len(queries), 1, -1), negatives], 1)
        logits = F.cosine_similarity(queries[:, None], keys, dim=2) / self.numbers.temperature
        return F.cross_entropy(logits, logits.new_zeros(len(queries), dtype=torch.long))


def show_literal(ours):
    try:
        import sklearn  # noqa: F401
    except ImportError:
        print("the literal way needs scikit-learn, which is not installed")
        return
    setting = Setting()
    literal = Literal(setting)
    found, _ = setting.queries()
    ten, one = timed(1, *(lambda r=r: literal.clustered(found, r) for r in (10, 1)), warm=0)
    start = now()
    theirs = literal.losses(1)
    rest = now() - start - one
    print("the literal way, k-means on one thread, no backward; s")
    for restarts, clustering in ((10, ten), (1, one)):
        total = clustering + rest
        print(
            f"  n_init {restarts:<4}{total / 1000:8.2f}, {clustering / 1000:.2f} of them k-means; "
            f"{total / ours:.0f} times ours, backward included"
        )
    weight, losses = setting.module.numbers.weight, setting.losses()
    for name, value in zip(("l_fb", "l_if"), theirs, strict=True):
        print(f"  {name}: {value:.3f}, ours {losses[name] / getattr(weight, name):.3f}")


# How it grows


def show_growth(steps, full):
    print("how it grows, from projections; ms")
    largest = {"bank": 1_000_000, "images": 32, "grid": 64} if full else {}
    sizes = {"bank": (1_000, 10_000, 100_000), "images": (4, 8, 16), "grid": (16, 32)}
    for what, values in sizes.items():
        values = (*values, largest[what]) if full else values
        spent = timed(steps, *(Setting(**{what: value}).step for value in values))
        line = "".join(f"{v:>10,}:{ms:7.1f}" for v, ms in zip(values, spent, strict=True))
        print(f"  {what:<8}{line}")


# The base step


def batch_of(crop, images):
    """Toy images of this side, as training takes them."""
    world = toy.World(size=crop, size_jitter=0)
    scenes = [toy.draw(world, 0, index) for index in range(images)]
    kinds = range(1, 1 + len(toy.CLASSES))
    return {
        "image": torch.from_numpy(np.stack([s.image for s in scenes])).to(DEVICE),
        "label": torch.tensor([[float(c in s.mask) for c in kinds] for s in scenes]).to(DEVICE),
        "seeds": torch.from_numpy(np.stack([s.mask for s in scenes])).to(DEVICE),
        "saliency": torch.from_numpy(np.stack([s.saliency for s in scenes])).to(DEVICE),
        "companions": torch.from_numpy(np.stack([s.companions for s in scenes])).to(DEVICE),
    }


def trainer(recipe, batch, fbr):
    """A network, and one step of this recipe; of next to no rate, so that all steps are alike."""
    if DEVICE.type == "cpu":
        keep_memory()  # as trainings do
    torch.manual_seed(0)
    net = recipe.network
    backbone = backbones.build(net.name, net.stride, net.freeze, dilate=net.dilate)
    if net.weights == "imagenet":
        backbones.freeze_statistics(backbone)
    network = cam_method(recipe.method, backbone, batch["label"].shape[1], recipe.options, fbr)
    network.to(DEVICE, memory_format=torch.channels_last).train()
    trained = [p for p in network.parameters() if p.requires_grad]
    kinds = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    momentum = {"momentum": recipe.momentum} if recipe.optimizer == "sgd" else {}
    optimizer = kinds[recipe.optimizer](trained, lr=1e-9, **momentum)
    now = {"seed": 0, "step": 0, "logged": False}  # as most steps are not

    def step():
        given = batch | now | {"image": normalise(batch["image"])}
        with autocast(DEVICE.type, True):
            losses = network(given)
        backward(losses)
        optimizer.step()
        optimizer.zero_grad()

    return network, step


def show_base(data, steps, warm, *carried):
    """Steps of the plain CAM's recipe, and of those that carry FBR, as they are or as fbr_plus."""
    recipe = SETTINGS.of("cam_train", {"cam": "plain", "data": data})
    batch = batch_of(recipe.crop, recipe.batch)
    recipes = [recipe, *(SETTINGS.of("cam_train", {"cam": c, "data": data}) for c in carried)]
    plain, *spent = timed(steps, *(trainer(r, batch, r.fbr)[1] for r in recipes), warm=warm)
    print(
        f"a step of {data}'s recipe ({recipe.network.name}, batch {recipe.batch}, crop "
        f"{recipe.crop}): {plain:.0f} ms"
    )
    for cam, each in zip(carried, spent, strict=True):
        print(f"  {cam:<16}{each:.0f} ms, {each / plain - 1:.1%} slower")


def main(full=False):
    """Print four tables; steps are few unless all is asked for."""
    print(f"{DEVICE.type}, {torch.get_num_threads()} threads")
    steps = 15 if full else 5
    ours = show_parts(steps)
    show_literal(ours)
    show_growth(steps, full)
    show_base("toy", 4 * steps, 3, "plain_fbr", "plain_fbr_plus")
    if full:
        show_base("voc", 3, 1, "plain_fbr")


if __name__ == "__main__":
    main("--full" in sys.argv[1:])
