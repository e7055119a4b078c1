"""What is concluded from votes. A certificate is one file here: `PROMISE`, `STATELESS`, `Settings` and `steps`.

Its name is the `certificate` of the kinds of rows that stand on it; it imports torch in functions only.
"""

from ddrs.registry import Folder

CERTIFICATES = Folder("certificate", __name__)
