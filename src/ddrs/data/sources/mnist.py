"""MNIST (LeCun et al. 1998), from the network or a folder with its four IDX files."""

from ddrs.data.requests import Source
from ddrs.data.sources._idx import reader_of

MD5 = {  # of the unpacked files
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
SOURCE = Source(reader_of("MNIST", MD5), (1, 28, 28), 10, sizes={"train": 60_000, "test": 10_000})
