"""Follows a TUF repository with python-tuf's client.

usage: follow.py FOLDER URL NAME

FOLDER keeps the trusted metadata between runs and holds root.json, trusted at the first. Prints the target NAME, if one is named.
"""

import os
import sys

from tuf.ngclient import Updater

folder, url, name = sys.argv[1:]
metadata = os.path.join(folder, "metadata")
first = not os.path.exists(metadata)
os.makedirs(metadata, exist_ok=True)
with open(os.path.join(folder, "root.json"), "rb") as f:
    root = f.read()
updater = Updater(metadata, url + "/", folder, url + "/targets/", bootstrap=root if first else None)
updater.refresh()
if name:
    info = updater.get_targetinfo(name)
    if info is None:
        sys.exit(f"nothing vouches for {name}")
    path = updater.download_target(info)
    with open(path, "rb") as f:
        print(f.read().decode())
    os.remove(path)
