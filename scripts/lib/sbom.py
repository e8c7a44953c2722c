"""Leaves in a bill of materials what `cargo tree`, on standard input, says is built, and no more.

Fails where one of those crates is not in it, or has no checksum or licence there."""

import json
import sys

path = sys.argv[1]
with open(path, encoding="utf-8") as file:
    bom = json.load(file)

own = bom["metadata"]["component"]
# "name v1.2.3", and for our own crate its folder.
built = {tuple(line.split()[:2]) for line in sys.stdin if line.strip()}
built.discard((own["name"], "v" + own["version"]))


def crate(component):
    return component["name"], "v" + component["version"]


kept = [component for component in bom["components"] if crate(component) in built]
missing = built - {crate(component) for component in kept}
bare = [c["name"] for c in kept if not c.get("hashes") or not c.get("licenses")]
if missing or bare or not built:
    sys.exit(f"sbom: not in it: {sorted(missing)}; without checksum or licence: {bare}")

refs = {own["bom-ref"]} | {component["bom-ref"] for component in kept}
bom["components"] = kept
bom["dependencies"] = [
    {**one, "dependsOn": [ref for ref in one.get("dependsOn", []) if ref in refs]}
    for one in bom["dependencies"]
    if one["ref"] in refs
]
# Our own crate's reference holds the folder it was built in.
folder = own["bom-ref"].rpartition("#")[0]
text = json.dumps(bom, indent=2, ensure_ascii=False).replace(f'"{folder}#', '"')
with open(path, "w", encoding="utf-8") as file:
    file.write(text + "\n")
print(f"sbom: {path}, {len(kept)} crates")
