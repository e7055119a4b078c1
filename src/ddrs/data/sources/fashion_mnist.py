"""Fashion-MNIST (Xiao et al. 2017), from the network or a folder with its four IDX files."""

from ddrs.data.requests import Source
from ddrs.data.sources._idx import reader_of

MD5 = {  # of the unpacked files
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}
SOURCE = Source(reader_of("FashionMNIST", MD5), (1, 28, 28), 10, sizes={"train": 60_000, "test": 10_000})
