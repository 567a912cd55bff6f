"""The kinds of files that the campaign of mutants knows: a valid one, the door it is loaded by, and odd ones."""

import contextlib
import gzip
import io
import json
import os
import pickle
import zipfile
import zlib
from dataclasses import dataclass

import h5py
import layouts
import numpy as np
from PIL import Image

from minires import resnet
from minires.data import ArrayDataset, load, read_image, write_signs
from minires.errors import MiniresError
from minires.instruments.watch import QUANTITIES, Record, Row, read, write
from minires.instruments.watch.film import plot_film, section
from minires.run import read_predictions, write_predictions
from minires.seal import seal, sealed
from minires.train import Classifier, Evaluation, Preprocess, load_classifier, save_checkpoint
from minires.weights import export_weights, import_weights, state_dict

ODD = (None, True, 0, -1, 1e9, 10**9, float("nan"), "", "x" * 99, [], [0], {}, {"a": 1}, [[[[]]]], 2**70, "resnet50")


def network(seed=0):
    return resnet("resnet8", (8, 8, 3), 2, widths=(4, 4, 4), seed=seed)


def classifier() -> Classifier:
    return Classifier(network(), ("left", "right"), Preprocess())


def checkpoint(path):
    count = sum(p.data.size for p in network().params())
    save_checkpoint(path, classifier(), optimizer={"m": np.ones(count, np.float32)}, training={"steps": 3})


def unsealed(write):
    """The same HDF5 as of someone else: no seal, and no word of it."""

    def make(path):
        write(path)
        with h5py.File(path) as file, h5py.File(f"{path}.bare", "w") as copy:
            for name, value in file.attrs.items():
                if name != "sealed":
                    copy.attrs[name] = value
            for name in file:
                file.copy(name, copy)
        os.replace(f"{path}.bare", path)

    return make


def format_1(path):
    unsealed(checkpoint)(path)
    with h5py.File(path, "r+") as file:
        file.attrs["minires"] = json.dumps(json.loads(file.attrs["minires"]) | {"format": 1})


def watched(path):
    records = [Record((0, i), i, 0.5, {name: np.full(2, 0.1 * i) for name in QUANTITIES}) for i in range(3)]
    rows = (Row("conv1", "stem", 1, True), Row("fc", "head", 2, True))
    write(path, 5, {name: rows for name in QUANTITIES}, records, 0.25)


def predictions(path):
    write_predictions(path, Evaluation(0.5, 1.0, np.eye(3, 2, dtype=np.float32), np.arange(3) % 2), "0" * 64)


def pixels(count=24, seed=0):
    y, x = np.mgrid[:16, :16]
    wave = 120 + 60 * np.sin(x / 3) * np.cos(y / 2)
    noise = np.random.default_rng(seed).integers(0, 40, (count, 16, 16, 3))
    return (wave[None, :, :, None] + noise).astype(np.uint8)


def signs(path):
    write_signs(path, ArrayDataset(pixels(), np.arange(24) % 2, ("0", "1")))


def signs_gzip(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("train_set_x", data=pixels(), compression="gzip", shuffle=True, chunks=(5, 16, 8, 3))
        file["train_set_y"], file["list_classes"] = np.arange(24) % 2, np.array([b"left", b"right"])


def data_npz(path, save=np.savez):
    save(path, x_train=pixels(), y_train=np.arange(24) % 2)


def data_npz_packed(path):
    data_npz(path, np.savez_compressed)


def data_npy(path):
    np.save(path, pixels())
    np.save(path.with_name("y.npy"), np.arange(24) % 2)


def data_idx(path):
    """Images; their labels, and a mutant's, lie beside them."""
    layouts.idx(path, pixels()[..., 0])
    labels = path.name.replace("images", "labels")
    for name in (labels, labels.replace("whole", "mutant")):
        layouts.idx(path.with_name(name), np.arange(24) % 2)


def cifar_pickle(path):
    layouts.cifar(path.parent)
    os.replace(path.parent / "data_batch_1", path)
    for other in ("data_batch_2", "test_batch", "batches.meta"):
        (path.parent / other).unlink()


def cifar_bytes(path):
    layouts.cifar_bytes(path.parent)
    os.replace(path.parent / "data_batch_1.bin", path)
    for other in ("data_batch_2.bin", "test_batch.bin", "batches.meta.txt"):
        (path.parent / other).unlink()


def mat_old(path):
    layouts.svhn(path.parent, path.name)


def mat_hdf5(path):
    layouts.svhn(path.parent, path.name, write=layouts.mat_hdf5)


def csv_table(path):
    rows = [(f"{i}.png", "ab"[i % 2], ("train", "test")[i // 4]) for i in range(6)]
    layouts.flat(path.parent, *(row[0] for row in rows))
    layouts.table(path, [("file", "label", "split"), *rows])


def spoil_pickle(path, rng):
    """A pickle that would run something, ask for memory, or hold other things than arrays."""
    content, claim = path.read_bytes(), np.iinfo(np.int64).max // 4
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
    odd = [
        b"\x80\x02cos\nsystem\nU\x04exit\x85R.",
        b"\x80\x02cbuiltins\neval\nU\x011\x85R.",
        b"\x80\x02" + array + b"(I%d\ntU\x01b\x87R." % claim,
        b"\x80\x02]r\xff\xff\xff\x7f.",  # a place in the memo that takes 16 GB
        b"\x80\x04\x8e" + (2**40).to_bytes(8, "little") + b".",
        b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b".",
        b"\x80\x02" + b"(" * 100_000 + b"t" * 100_000 + b".",
        b"\x80\x02}(U\x04data" + b"]" * 3000 + b"U\x06labels]u.",
        pickle.dumps({b"data": pixels(), b"labels": [0] * 24}, 2),
        pickle.dumps({b"data": pixels(4).reshape(4, -1), b"labels": ["x"] * 4}, 2),
        pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [-1, 10**30]}, 2),
        pickle.dumps({b"data": np.array([{}], object), b"labels": [0]}, 2),
        pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": np.array([0.5, 1])}, 5),
        pickle.dumps([content], 2),
        content.replace(b"dtype", b"dtypf"),
        content.replace(b"ndarray", b"frombuffer"),
    ]
    path.write_bytes(odd[rng.integers(len(odd))])


_SHAPES = [(10**9, 16, 16, 3), (2**62, 2**62), (-1, 16, 16, 3), (), (0, 16, 16, 3), (24, 0, 16), (24,), (24, 2**31)]
_TYPES = ["'|u1'", "'|O'", "'<f8'", "'<U0'", "'|V3'", "[('a', '<f4')]", "'<c16'", "(1,)" * 900]
_TABLES = [
    *(b"", b"\x00" * 50, b"\xff\xfe", b'"' * 9, b"file,label\n", b"a," * 10**5, b"0.png,a\n0.png,b\n", b"\n" * 99),
    *(b"file,label\n/dev/zero,a\n/etc,b\n", b"file,label\n../0.png,a\n", b"file,label\n" + b"x" * 200_000 + b",a\n"),
]


def spoil_header(path, rng):
    """Of .npy or idx: a header that claims other shapes and types."""
    shape, rest = _SHAPES[rng.integers(len(_SHAPES))], bytes(rng.integers(20_000))
    if path.suffix == ".npy":
        kind = _TYPES[rng.integers(len(_TYPES))]
        head = f"{{'descr': {kind}, 'fortran_order': {rng.random() < 0.3}, 'shape': {shape}}}\n".encode()
        path.write_bytes(b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + rest)
        return
    content = bytes((0, 0, 8, len(shape))) + b"".join((n % 2**32).to_bytes(4, "big") for n in shape) + rest
    if rng.random() < 0.1:  # what it claims is there, once it is unpacked
        content = layouts.idx(path.with_name("claim"), np.zeros((10**6, 16, 16), np.uint8)).read_bytes()
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)


def spoil_table(path, rng):
    path.write_bytes(_TABLES[rng.integers(len(_TABLES))])


def spoil_mat(path, rng):
    """Numbers in the heads of the elements, unpacked and packed again."""
    content = path.read_bytes()
    at, parts, odd = 128, [], [0, 1, 5, 6, 9, 14, 15, 10**6, 2**31 - 1, 2**32 - 1]
    while at + 8 <= len(content):
        size = int.from_bytes(content[at + 4 : at + 8], "little")
        parts.append(bytearray(zlib.decompress(content[at + 8 : at + 8 + size])))
        at += 8 + size
    inner = parts[rng.integers(len(parts))]
    for _ in range(rng.integers(1, 4)):
        place = 4 * int(rng.integers(16))
        inner[place : place + 4] = int(rng.choice(odd)).to_bytes(4, "little")
    packed = [zlib.compress(bytes(part), 1) for part in parts]
    path.write_bytes(content[:128] + b"".join(b"\x0f\0\0\0" + len(p).to_bytes(4, "little") + p for p in packed))


def exported(path):
    export_weights(network(), path)


def npz(path):
    np.savez(path, **state_dict(network()))


def safetensors(path):
    from safetensors.numpy import save_file

    save_file(state_dict(network()), path)


def pth(path):
    import torch

    torch.save({name: torch.from_numpy(array) for name, array in state_dict(network()).items()}, path)


def pth_legacy(path):
    import torch

    tensors = {name: torch.from_numpy(array) for name, array in state_dict(network()).items()}
    torch.save({"net": tensors, "acc": 93.0, "epoch": 3}, path, _use_new_zipfile_serialization=False)


def safetensors_bfloat16(path):
    import torch
    from safetensors.torch import save_file

    save_file({name: torch.from_numpy(array).bfloat16() for name, array in state_dict(network()).items()}, path)


def onnx_of_others(path):
    """Another's names, and batch normalisation between convolutions as exporters leave it."""
    import onnx

    exported(path)
    proto = onnx.load(path)
    proto.producer_name = "pytorch"
    proto.ClearField("metadata_props")
    for i, node in enumerate(proto.graph.node):
        node.name = f"/{i}"
    onnx.save(proto, path)


def keras(path):
    inner = path.with_name("inner.weights.h5")
    unsealed(exported)(inner)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps({"config": {"layers": [{"config": {"name": "conv1"}}]}}))
        archive.write(inner, "model.weights.h5")
    inner.unlink()


def picture(path):
    Image.fromarray(np.kron(pixels(1)[0], np.ones((4, 4, 1), np.uint8))).save(path)


def open_checkpoint(path):
    c = load_classifier(path)
    return [repr((c.classes, c.preprocess)).encode(), *c.model.state().values()]


def open_data(path):
    train, _ = load(path)
    return [repr((train.classes, train.flip_ok)).encode(), train.labels, train.images(np.arange(len(train)))]


def open_weights(path):
    model = network(seed=1)
    import_weights(model, path)
    return list(model.state().values())


def open_watched(path):
    film, positions = read(path)
    plot_film(film)
    section(film, "", "")
    return [repr((film.every, film.rows)).encode(), film.steps, film.losses, positions, *film.values.values()]


def open_predictions(path):
    labels, probs, fingerprint = read_predictions(path)
    return [labels, probs, fingerprint.encode()]


def open_picture(path):
    return [read_image(path, 32)]


def spoil_json(value, rng):
    """JSON with one value somewhere replaced, added or taken away."""
    inner = value if isinstance(value, dict | list) and len(value) and rng.random() < 0.8 else None
    if inner is None:
        return ODD[rng.integers(len(ODD))]
    keys = list(inner) if isinstance(inner, dict) else range(len(inner))
    key = keys[int(rng.integers(len(keys)))]
    if rng.random() < 0.1:
        del inner[key]
    else:
        inner[key] = spoil_json(inner[key], rng)
    return inner


def spoil_hdf5(path, rng):
    """Change an attribute or an array; then seal it again if it was sealed."""
    again = sealed(path)
    with h5py.File(path, "r+") as file:
        names = []
        file.visit(names.append)
        name = names[int(rng.integers(len(names)))]
        texts = [key for key, value in file.attrs.items() if isinstance(value, str) and value.startswith("{")]
        if texts and rng.random() < 0.6:
            text = json.dumps(spoil_json(json.loads(file.attrs[texts[0]]), rng))
            file.attrs[texts[0]] = ["[" * 50_000, "null", text][min(2, int(rng.integers(30)))]
        else:
            _replace(file, name, rng)
    if again:
        seal(path)


def _replace(file, name, rng):
    shape = file[name].shape if isinstance(file[name], h5py.Dataset) else (2,)
    value = file[name][()] if isinstance(file[name], h5py.Dataset) else np.zeros(2)
    del file[name]
    virtual = h5py.VirtualLayout((2,), "f4")
    virtual[:] = h5py.VirtualSource("/etc/hostname", "x", (2,))
    [
        lambda: None,
        lambda: file.create_group(name),
        lambda: file.__setitem__(name, h5py.ExternalLink("/etc/hostname", "/x")),
        lambda: file.__setitem__(name, h5py.SoftLink("/")),
        lambda: file.__setitem__(name, h5py.SoftLink("/nowhere")),
        lambda: file.create_virtual_dataset(name, virtual),
        lambda: file.create_dataset(name, (5,), "u1", external=[("/etc/hostname", 0, 5)]),
        lambda: file.create_dataset(name, (10**9,), "f4"),
        lambda: file.create_dataset(name, (10**9,), "f4", chunks=(10**6,), compression="gzip"),
        lambda: file.create_dataset(name, (*shape, 1), "f4"),
        lambda: file.create_dataset(name, shape, "f8"),
        lambda: file.create_dataset(name, shape, "c8"),
        lambda: file.create_dataset(name, shape, "i4"),
        lambda: file.create_dataset(name, shape, h5py.string_dtype()),
        lambda: file.create_dataset(name, shape, h5py.ref_dtype),
        lambda: file.create_dataset(name, shape, np.dtype([("a", "f4"), ("b", "i2")])),
        lambda: file.create_dataset(name, data=h5py.Empty("f4")),
        lambda: file.create_dataset(name, data=np.full(shape, np.nan)),
        lambda: file.create_dataset(name, data=np.full(shape, -1.0, np.float32)),
        lambda: file.__setitem__(name, np.dtype("f4")),
        lambda: _bomb(file, name),
        lambda: file.create_dataset(name, data=value, **({"compression": "gzip"} if np.ndim(value) else {})),
    ][rng.integers(22)]()


def _bomb(file, name):
    array = file.create_dataset(name, (5 * 10**7,), "f4", chunks=(10**7,), compression="gzip")
    for start in range(0, 5 * 10**7, 10**7):
        array.id.write_direct_chunk((start,), _BOMB)


_BOMB = zlib.compress(bytes(4 * 10**7), 1)


def spoil_safetensors(path, rng):
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.dumps(spoil_json(json.loads(content[8 : 8 + size]), rng)).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + size :])
    with contextlib.suppress(MiniresError, ValueError):
        seal(path)


def spoil_zip(path, rng):
    """Another array under one of the names, or a part that unpacks to far more than it is."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    name = list(parts)[rng.integers(len(parts))]
    odd = [
        *(np.zeros(2), np.array(["a", "b"]), np.zeros(2, "f4,i4"), np.array([{}], object), np.array(3), np.zeros(0)),
        np.full((3, 3, 4, 4), np.nan),
    ]
    stream = io.BytesIO()
    np.lib.format.write_array(stream, odd[rng.integers(len(odd))])
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (10000000000,)}\n"
    claim = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    bomb = bytes(2 * 10**8) if rng.random() < 0.1 else b""
    new = [stream.getvalue(), claim, bomb, b"[" * 50_000, b"", parts[name]][rng.integers(6)]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if new is bomb else zipfile.ZIP_STORED) as archive:
        for key, part in parts.items():
            archive.writestr("../" * (rng.random() < 0.05) + key, new if key == name else part)


def spoil_onnx(path, rng):
    """A node, an attribute or an initializer that is another, or refers to other files."""
    import onnx

    proto = onnx.load(path, load_external_data=False)
    graph = proto.graph
    node, tensor = graph.node[rng.integers(len(graph.node))], graph.initializer[rng.integers(len(graph.initializer))]

    def external(**words):
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in words.items():
            tensor.external_data.add(key=key, value=value)

    [
        lambda: graph.node.remove(node),
        lambda: graph.initializer.remove(tensor),
        lambda: node.ClearField("attribute"),
        lambda: node.ClearField("input"),
        lambda: node.input.reverse(),
        lambda: node.input.append(node.output[0]),
        lambda: setattr(node, "op_type", str(rng.choice(["Identity", "Transpose", "MatMul", "Gemm", "Conv", "Add"]))),
        lambda: node.attribute.append(onnx.helper.make_attribute("strides", [2, 2])),
        lambda: node.attribute.append(onnx.helper.make_attribute("perm", [0, 0, 9])),
        lambda: node.attribute.append(onnx.helper.make_attribute("epsilon", "x")),
        lambda: tensor.dims.append(10**9),
        lambda: tensor.ClearField("dims"),
        lambda: setattr(tensor, "data_type", int(rng.integers(25))),
        lambda: external(location="/etc/hostname"),
        lambda: external(location=path.name, offset="0", length="99"),
        lambda: external(location=path.name, offset="-1", length=str(10**18)),
        lambda: external(location="x" * 5000, offset="y"),
        lambda: graph.ClearField("node"),
    ][rng.integers(18)]()
    path.write_bytes(proto.SerializeToString())
    with contextlib.suppress(MiniresError, ValueError):
        seal(path)


def spoil_pth(path, rng):
    import torch

    tensors = torch.load(path)
    tensors = tensors.get("net", tensors)
    name = list(tensors)[rng.integers(len(tensors))]
    odd = [
        torch.eye(3).to_sparse(),
        torch.ones(1).expand(10**9),
        torch.empty(4, device="meta"),
        *(torch.ones(3, dtype=getattr(torch, kind)) for kind in ("bfloat16", "complex64", "int8", "bool")),
        *([1, 2], {"a": 1}, 3.5, "text", None, torch.full(tensors[name].shape, float("nan"))),
    ]
    tensors[[name, 3, None, "", ("a", 1)][min(4, int(rng.integers(9)))] if rng.random() < 0.3 else name] = odd[
        rng.integers(len(odd))
    ]
    nested = tensors
    for _ in range(int(rng.choice([0, 0, 0, 1, 400]))):
        nested = {"state_dict": nested}
    torch.save(nested, path, _use_new_zipfile_serialization=bool(rng.integers(2)))


@dataclass(frozen=True)
class Kind:
    """suffix: of the file's name; ours: whether minires wrote it, so that no change of a byte may pass."""

    suffix: str
    make: object
    open: object
    ours: bool = False
    spoil: object = None


KINDS = {
    "checkpoint": Kind(".h5", checkpoint, open_checkpoint, True, spoil_hdf5),
    "signs": Kind(".h5", signs, open_data, True, spoil_hdf5),
    "weights.h5": Kind(".weights.h5", exported, open_weights, True, spoil_hdf5),
    "watch": Kind(".h5", watched, open_watched, True, spoil_hdf5),
    "predictions": Kind(".h5", predictions, open_predictions, True, spoil_hdf5),
    "npz": Kind(".npz", exported, open_weights, True),
    "safetensors": Kind(".safetensors", exported, open_weights, True, spoil_safetensors),
    "checkpoint, format 1": Kind(".h5", format_1, open_checkpoint, False, spoil_hdf5),
    "signs of others": Kind(".h5", unsealed(signs), open_data, False, spoil_hdf5),
    "signs, gzip": Kind(".h5", signs_gzip, open_data, False, spoil_hdf5),
    "weights.h5 of others": Kind(".weights.h5", unsealed(exported), open_weights, False, spoil_hdf5),
    "npz of others": Kind(".npz", npz, open_weights, False, spoil_zip),
    "safetensors of others": Kind(".safetensors", safetensors, open_weights, False, spoil_safetensors),
    "keras": Kind(".keras", keras, open_weights, False, spoil_zip),
    "jpeg": Kind(".jpg", picture, open_picture),
    "png": Kind(".png", picture, open_picture),
    "data, npz": Kind(".npz", data_npz, open_data, False, spoil_zip),
    "data, npz packed": Kind(".npz", data_npz_packed, open_data, False, spoil_zip),
    "data, npy": Kind("_x.npy", data_npy, open_data, False, spoil_header),
    "data, idx": Kind("-images-idx3-ubyte", data_idx, open_data, False, spoil_header),
    "data, idx.gz": Kind("-images-idx3-ubyte.gz", data_idx, open_data, False, spoil_header),
    "data, CIFAR pickled": Kind("_batch", cifar_pickle, open_data, False, spoil_pickle),
    "data, CIFAR bytes": Kind("_batch.bin", cifar_bytes, open_data),
    "data, mat": Kind(".mat", mat_old, open_data, False, spoil_mat),
    "data, mat 7.3": Kind(".mat", mat_hdf5, open_data, False, spoil_hdf5),
    "data, csv": Kind(".csv", csv_table, open_data, False, spoil_table),
    "onnx": Kind(".onnx", exported, open_weights, True, spoil_onnx),
    "onnx of others": Kind(".onnx", onnx_of_others, open_weights, False, spoil_onnx),
    # last: they need PyTorch
    "pth": Kind(".pth", pth, open_weights, False, spoil_pth),
    "pth before 1.6, wrapped": Kind(".th", pth_legacy, open_weights, False, spoil_pth),
    "safetensors, bfloat16": Kind(".safetensors", safetensors_bfloat16, open_weights, False, spoil_safetensors),
}
