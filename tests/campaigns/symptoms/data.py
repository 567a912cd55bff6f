"""Faults of images and labels."""

import csv
import io

import h5py
import numpy as np
from PIL import Image

import minires
from minires.data import write_signs
from symptoms.common import (
    SHAPES,
    Collection,
    changed,
    classifier,
    fitted,
    fruit,
    in_folder,
    pair,
    picked,
    pixels,
    recipe,
    shapes,
    signs,
    small,
    whole_run,
)

symptoms = Collection("data")

KARPATHY = "http://karpathy.github.io/2019/04/25/recipe/"
ORANGE = "http://theorangeduck.com/page/neural-network-not-working"
REASONS = "https://programmerteach.com/p/37-reasons-why-your-neural-network-is-not-working"


# the values of the pixels


@symptoms(
    "bytes of images in 0..1",
    told="I divided my photos by 255 and saved them as uint8. Every picture I look at is black, no pixel is above 1; "
    "80 % in training, 27 % on the test.",
    source=ORANGE,
    causes="value range",
)
def _(folder, seed=0):
    train, test = pair(signs_like, count=150, test=60, seed=seed)
    train, test = (changed(part, images=np.rint(pixels(part) / 255).astype(np.uint8)) for part in (train, test))
    return {"what": classifier(small(train, seed), train), "data": train, "test": test}


@symptoms(
    "floats in 0..1 with overshoot",
    told="My HDF5 file holds floats between 0 and 1, a few at 1.02 since I sharpened the images. Read back, every "
    "pixel is 0 or 1, and pictures of them are black.",
    source=REASONS,
    causes="value range",
)
def _(folder, seed=0):
    train, test = pair(signs_like, count=150, test=60, seed=seed)
    path = folder / "sharpened.h5"
    with h5py.File(path, "w") as file:
        for name, part in (("train", train), ("test", test)):
            x = pixels(part).astype(np.float32) / 255
            file[f"{name}_set_x"] = x + 0.08 * (x - x.mean(axis=(1, 2), keepdims=True)).clip(0)
            file[f"{name}_set_y"] = part.labels
        file["list_classes"] = np.array([name.encode() for name in train.classes])
    return {"what": path, "data": path}


@symptoms(
    "standardised and then cast to bytes",
    told="After x = (x - mean) / std I cast to uint8 to save disk. The images are speckles of 0, 1, 254 and 255 now, "
    "and the test is at 17 to 23 %.",
    source=ORANGE,
    causes="value range",
)
def _(folder, seed=0):
    def speckled(part):
        x = pixels(part).astype(np.float32)
        return changed(part, images=((x - x.mean()) / x.std()).astype(np.int16).astype(np.uint8))

    train, test = map(speckled, pair(seed=seed))
    return {"what": train, "data": train, "test": test}


@symptoms(
    "a NaN in the pixels",
    told="The loss was nan from the first batch on. Some rows of my .npz of floats come from a division by zero.",
    source="https://github.com/thtrieu/darkflow/issues/1059",
    causes=("damaged images", "value range"),
)
def _(folder, seed=0):
    train, test = pair(seed=seed)
    x = pixels(train).astype(np.float32) / 255
    x[17] = np.nan
    path = folder / "photos.npz"
    np.savez(path, x_train=x, y_train=train.labels, x_test=pixels(test).astype(np.float32) / 255, y_test=test.labels)
    return {"what": path, "data": path}


# images that are the same


@symptoms(
    "one file for all images",
    told="The loop that fills my array opens files[0] each time. Training comes down to 1.81, near ln 6, and stays.",
    source=KARPATHY,
    causes="constant images",
)
def _(folder, seed=0):
    train, test = pair(seed=seed)
    train, test = (changed(part, images=np.repeat(part.images([0]), len(part), axis=0)) for part in (train, test))
    return whole_run(folder, small(train, seed), train, test, recipe(epochs=3))


@symptoms(
    "oversampled by copying",
    told="To have more data I copied my 40 photos five times and trained on the 240. 100 % in training, and 53 % on "
    "the test.",
    source="https://arxiv.org/abs/1902.00423",
    causes="duplicates",
)
def _(folder, seed=0):
    train, test = pair(seed=seed)
    train = picked(train, np.tile(np.arange(40), 6))
    return whole_run(folder, small(train, seed), train, test, recipe(epochs=5))


@symptoms(
    "a download that ran twice",
    told="The scraper ran twice into one folder: a.jpg and a (1).jpg lie side by side, and part of both went to "
    "validation.",
    source="https://arxiv.org/abs/1906.08255",
    causes=("duplicates", "leak"),
)
def _(folder, seed=0):
    train = shapes(150, seed)
    in_folder(folder / "scraped", train)
    in_folder(folder / "scraped", train, start=5000)
    return {"what": folder / "scraped", "data": folder / "scraped"}


@symptoms(
    "photos in two classes",
    told="Annotators put a third of the photos in two folders, since both names fit. Accuracy on training images does "
    "not get beyond 79 %.",
    source="https://developers.google.com/machine-learning/guides/rules-of-ml",
    causes="contradicting labels",
)
def _(folder, seed=0):
    train = shapes(240, seed)
    twice = np.arange(80)
    other = (train.labels[twice] + 1) % len(SHAPES)
    both = changed(
        train,
        images=np.concatenate([pixels(train), train.images(twice)]),
        labels=np.concatenate([train.labels, other]),
    )
    in_folder(folder / "photos", both, kind="png")
    return {"what": folder / "photos", "data": folder / "photos"}


@symptoms(
    "test images taken from training",
    told="100 % on test, and on new photos it fails. I drew the test images with random.sample and forgot to remove "
    "them from the training list.",
    source="https://arxiv.org/abs/1902.00423",
    causes="leak",
)
def _(folder, seed=0):
    train, _ = signs(180, 60, seed=seed)
    test = picked(train, np.random.default_rng(seed).permutation(180)[:60], source="test")
    return whole_run(folder, small(train, seed), train, test, recipe(epochs=10))


@symptoms(
    "split after augmentation",
    told="I first made brighter and darker JPEG copies of every photo, then split at random. Test accuracy is much "
    "better than in the field.",
    source="https://koaning.io/til/cifar-duplications/",
    causes="leak",
)
def _(folder, seed=0):
    base, _ = signs(120, 6, size=24, seed=seed)
    rng = np.random.default_rng(seed)
    copies = [np.stack([_jpeg(image, gain) for image in pixels(base)]) for gain in (0.85, 1.0, 1.12)]
    everything, labels = np.concatenate(copies), np.tile(base.labels, 3)
    order = rng.permutation(len(labels))
    train, test = (changed(base, images=everything[i], labels=labels[i]) for i in (order[:280], order[280:]))
    return {"what": train, "data": train, "test": test}


@symptoms(
    "frames of the same videos",
    told="All frames of 30 videos were mixed and split by frame. The test score is near perfect, with videos of other "
    "people it is poor.",
    source="https://developers.google.com/machine-learning/guides/rules-of-ml",
    causes="leak",
)
def _(folder, seed=0):
    base, _ = signs(60, 6, size=32, seed=seed)
    rng = np.random.default_rng(seed)
    frames = []
    for image in pixels(base):
        for _ in range(5):
            moved = np.roll(image, rng.integers(-1, 2, 2), axis=(0, 1)).astype(float) + rng.normal(0, 2, image.shape)
            frames.append(np.clip(moved, 0, 255).astype(np.uint8))
    labels, order = np.repeat(base.labels, 5), rng.permutation(300)
    frames = np.stack(frames)
    train, test = (changed(base, images=frames[i], labels=labels[i]) for i in (order[:220], order[220:]))
    return {"what": train, "data": train, "test": test}


# labels


@symptoms(
    "shuffled apart",
    told="I called np.random.shuffle on x and then on y. Training loss falls slowly from 2.1 to 0.7, the test stays "
    "at 17 %.",
    source="https://codegive.com/blog/numpy_shuffle_two_arrays.php",
    causes="shuffled labels",
)
def _(folder, seed=0):
    train, test = pair(seed=seed)
    train = changed(train, labels=np.random.default_rng(seed).permutation(train.labels))
    return whole_run(folder, small(train, seed), train, test, recipe(epochs=6))


@symptoms(
    "labels one image late",
    told="A header line was read as the first label, so that label i belongs to image i + 1. It memorises 93 % and "
    "tests at 20 %.",
    source=REASONS,
    causes="shuffled labels",
)
def _(folder, seed=0):
    train, test = pair(seed=seed)
    train, test = (changed(part, labels=np.roll(part.labels, 1)) for part in (train, test))
    return whole_run(folder, small(train, seed), train, test, recipe(epochs=6))


@symptoms(
    "files listed in the order of strings",
    told="labels.npy is in the order 1, 2, 3 ... and glob gave me 1, 10, 100. Nothing is learned, though each label "
    "occurs as often as it should.",
    source="https://github.com/pytorch/vision/issues/714",
    causes="shuffled labels",
)
def _(folder, seed=0):
    train, test = pair(seed=seed)
    listed = np.array(sorted(range(len(train)), key=str))
    train = changed(train, images=train.images(listed))
    made, history = fitted(small(train, seed), train, test, recipe(epochs=6))
    return {"what": made, "data": train, "test": test, "recipe": recipe(epochs=6), "history": history}


@symptoms(
    "test folders in another order",
    told="Validation was numbered by os.listdir, training by sorted names. Training accuracy is 100 %, validation 0 "
    "%, far below chance.",
    source="https://github.com/keras-team/keras/pull/3052",
    causes="label order",
)
def _(folder, seed=0):
    train, test = pair(seed=seed)
    test = changed(test, labels=np.array([4, 2, 0, 5, 1, 3])[test.labels])
    return whole_run(folder, small(train, seed), train, test, recipe(epochs=6))


@symptoms(
    "test labels from one",
    told="The test table counts its classes from 1 and the last one is written as 0. The run tests at 0 %.",
    source="https://github.com/modestyachts/ImageNetV2/issues/10",
    causes="label order",
)
def _(folder, seed=0):
    train, test = pair(fruit, seed=seed)
    test = changed(test, labels=(test.labels + 1) % 4)
    return whole_run(folder, small(train, seed), train, test, recipe(epochs=4))


@symptoms(
    "a checkpoint of another class list",
    told="The model was trained with classes in the order of a config file; my folder loader sorts them. It calls "
    "every disc a ring.",
    source="https://github.com/CSAILVision/places365/issues/22",
    causes="class order",
)
def _(folder, seed=0):
    train, test = pair(seed=seed)
    order = np.array([3, 5, 0, 2, 1, 4])  # sorted number -> place in the config file
    names = tuple(np.array(SHAPES)[np.argsort(order)])
    theirs = changed(train, labels=order[train.labels], classes=names)
    made, _ = fitted(small(train, seed), theirs)
    minires.save(made, folder / "theirs.h5")
    return {"what": folder / "theirs.h5", "data": train, "test": test}


@symptoms(
    "Disc and disc",
    told="It reports 8 classes although there are 6. Two people collected, one wrote the names of folders with "
    "capitals.",
    source="https://github.com/shikhargoyal13/data-science",
    causes="case of names",
)
def _(folder, seed=0):
    train, test = pair(seed=seed)
    root = in_folder(folder / "photos", train)
    in_folder(root, test, names=("bar", "cross", "Disc", "Ring", "square", "triangle"), start=5000)
    return {"what": root, "data": root}


@symptoms(
    "a table with capitals",
    told="labels.csv was typed by hand. Some cells say Lemon, some lemon; the confusion matrix has twice as many rows.",
    source="https://github.com/abhi8893/tensorflow-deep-learning-mrdbourke/issues/49",
    causes="case of names",
)
def _(folder, seed=0):
    data = fruit(160, seed)
    (folder / "files").mkdir()
    rng = np.random.default_rng(seed)
    with (folder / "labels.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "label"])
        for i, (image, label) in enumerate(zip(pixels(data), data.labels, strict=True)):
            Image.fromarray(image).save(folder / "files" / f"{i}.png")
            name = data.classes[label]
            table.writerow([f"files/{i}.png", name.capitalize() if rng.random() < 0.3 else name])
    return {"what": folder / "labels.csv", "data": folder / "labels.csv"}


# how many of which


@symptoms(
    "nearly all of one class",
    told="95 % accuracy in training, 54 % on the test: it answers 'bar' far too often. Most of my images are bars.",
    source="https://github.com/ljw-struggle/Bioinfor-DeepATT/issues/1",
    causes="unbalanced classes",
)
def _(folder, seed=0):
    many, test = pair(count=1400, seed=seed)
    index = np.concatenate([np.flatnonzero(many.labels == k)[: (200 if k == 0 else 8)] for k in range(6)])
    train = picked(many, np.random.default_rng(seed).permutation(index))
    return whole_run(folder, small(train, seed), train, test, recipe(epochs=4))


@symptoms(
    "one rare class",
    told="Four fruits, 60 photos each, but only 3 plums. For most of the training it tests at 75 %: no plum is found.",
    source="https://developers.google.com/machine-learning/guides/rules-of-ml",
    causes="unbalanced classes",
)
def _(folder, seed=0):
    many, test = pair(fruit, seed=seed)
    index = [i for k in range(4) for i in np.flatnonzero(many.labels == k)[: (3 if k == 3 else 60)]]
    root = in_folder(folder / "fruit" / "train", picked(many, np.array(index)))
    in_folder(folder / "fruit" / "test", test)
    return {"what": root.parent, "data": root.parent}


@symptoms(
    "a class that is only tested",
    told="There are no training photos of squares, the upload of that folder failed. Five classes are perfect, "
    "squares are always wrong.",
    source=REASONS,
    causes="missing class",
)
def _(folder, seed=0):
    train, test = pair(count=288, seed=seed)
    train = picked(train, np.flatnonzero(train.labels != 4))
    return whole_run(folder, small(train, seed), train, test, recipe(epochs=6))


@symptoms(
    "argmax over the wrong axis",
    told="I turned one-hot rows into numbers with np.argmax(y, axis=0) and took what fitted. Loss 0.00 and 100 % "
    "after one epoch, suspicious.",
    source=KARPATHY,
    causes="one class",
)
def _(folder, seed=0):
    train, test = pair(seed=seed)
    train, test = (changed(part, labels=np.zeros(len(part), int)) for part in (train, test))
    return {"what": classifier(small(train, seed), train), "data": train, "test": test}


@symptoms(
    "four photos a class",
    told="100 % in training after a few epochs, 15 % on the test. I have taken four photos of each hand.",
    source=REASONS,
    causes="few images",
)
def _(folder, seed=0):
    train, test = signs(24, 120, seed=seed)
    return whole_run(folder, small(train, seed), train, test, recipe(epochs=25, lr=2e-3))


# their size and shape


@symptoms(
    "thumbnails",
    told="The export gave thumbnails of 5 x 5 pixels and the loader enlarges them to 32. Training ends at 31 %, the "
    "test at chance.",
    source="https://github.com/google-research/tuning_playbook",
    causes="tiny images",
)
def _(folder, seed=0):
    train, _ = signs(120, 6, size=32, seed=seed)
    root = in_folder(folder / "thumbnails", train, size=(5, 5), kind="png")
    return {"what": root, "data": root}


@symptoms(
    "arrays of 4 x 4",
    told="I average-pooled my hands to 4 x 4 to be fast. The test does not get beyond guessing, 17 %, whatever I "
    "train.",
    source="https://github.com/google-research/tuning_playbook",
    causes="tiny images",
)
def _(folder, seed=0):
    def shrunk(part):
        return changed(part, images=pixels(part).reshape(len(part), 4, 4, 4, 4, 3).mean(axis=(2, 4)).astype(np.uint8))

    train, test = map(shrunk, signs(180, 60, seed=seed))
    return {"what": classifier(small(train, seed), train), "data": train, "test": test}


@symptoms(
    "panoramas squeezed into squares",
    told="The camera gives 192 x 48. After loading, all discs are tall thin ellipses, and photos from the phone are "
    "not recognised.",
    source=REASONS,
    causes="stretched images",
)
def _(folder, seed=0):
    rng = np.random.default_rng(seed)
    data = shapes(120, seed, 48)
    for i, (image, label) in enumerate(zip(pixels(data), data.labels, strict=True)):
        wide = np.clip(rng.normal(image[0, 0], 8, (48, 192, 3)), 0, 255).astype(np.uint8)
        at = rng.integers(0, 144)
        wide[:, at : at + 48] = image
        (folder / "photos" / data.classes[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(wide).save(folder / "photos" / data.classes[label] / f"{i}.jpg", quality=92)
    return {"what": folder / "photos", "data": folder / "photos"}


# test images unlike training's


@symptoms(
    "OpenCV's order of colours",
    told="Training images came from Pillow, test images from cv2.imread. 100 % in training, 25 % in test; apples are "
    "called plums.",
    source="https://github.com/udacity/sdc-issue-reports/issues/623",
    causes="other images",
)
def _(folder, seed=0):
    train, test = pair(fruit, seed=seed)
    test = changed(test, images=pixels(test)[..., ::-1].copy())
    return whole_run(folder, small(train, seed), train, test, recipe(epochs=4))


@symptoms(
    "white on black",
    told="My scans are dark on white paper, the training set was light on black. 27 % on scans, 100 % in training.",
    source=REASONS,
    causes="other images",
)
def _(folder, seed=0):
    train, test = pair(seed=seed)
    test = changed(test, images=255 - pixels(test))
    return whole_run(folder, small(train, seed), train, test, recipe(epochs=6))


@symptoms(
    "test images scaled twice",
    told="Only the test loader divides by 255, before the model does so again. Every test image gets the same answer.",
    source="https://thecodeforge.io/ml-ai/tensorflow-keras-image-classification/",
    causes=("other images", "value range"),
)
def _(folder, seed=0):
    train, test = pair(seed=seed)
    test = changed(test, images=(pixels(test) / 255).round().astype(np.uint8))
    return whole_run(folder, small(train, seed), train, test, recipe(epochs=6))


@symptoms(
    "taken at night",
    told="The test photos were taken in the evening, at a fifth of the light. The test is at 17 % where training has "
    "100 %.",
    source="https://developers.google.com/machine-learning/guides/rules-of-ml",
    causes="other images",
)
def _(folder, seed=0):
    train, test = pair(seed=seed)
    test = changed(test, images=(pixels(test) * 0.2).astype(np.uint8))
    return whole_run(folder, small(train, seed), train, test, recipe(epochs=6))


# damaged


@symptoms(
    "a copy that broke off",
    told="OSError: image file is truncated, in the middle of an epoch. The disk was full while the photos were copied.",
    source="https://github.com/pytorch/vision/issues/138",
    causes="damaged images",
)
def _(folder, seed=0):
    root = in_folder(folder / "photos", shapes(120, seed, 32))
    for path in sorted(root.rglob("*.jpg"))[::17]:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return {"what": root, "data": root}


@symptoms(
    "pages in place of photos",
    told="Some of the downloads are 404 pages saved as .jpg. Pillow cannot identify the image file.",
    source="https://github.com/udacity/deep-learning-v2-pytorch/issues/134",
    causes="damaged images",
)
def _(folder, seed=0):
    root = in_folder(folder / "photos", shapes(120, seed))
    for path in sorted(root.rglob("*.jpg"))[5::29]:
        path.write_text("<!DOCTYPE html><html><body>404 Not Found</body></html>\n" * 20)
    return {"what": root, "data": root}


@symptoms(
    "the rest of the array stayed zero",
    told="I filled a zeros array in a loop and the loop stopped early. A third of the training images are black.",
    source=KARPATHY,
    causes=("damaged images", "constant images"),
)
def _(folder, seed=0):
    train, test = pair(seed=seed)
    images = pixels(train).copy()
    images[160:] = 0
    train = changed(train, images=images)
    write_signs(folder / "photos.h5", train, test)
    return {"what": folder / "photos.h5", "data": folder / "photos.h5"}


def _jpeg(image, gain):
    """Brighter or darker, and once through a JPEG."""
    stored = io.BytesIO()
    Image.fromarray(np.clip(image * gain, 0, 255).astype(np.uint8)).save(stored, "JPEG", quality=85)
    return np.array(Image.open(stored).convert("RGB"))


def signs_like(count, seed=0, size=16):
    """Hands, as `pair` wants them."""
    return signs(count, 6, size=size, seed=seed)[0]
