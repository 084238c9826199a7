"""The machine: Python, packages, device, kernels and disk."""

import os
import platform
import shutil
import tempfile
from importlib import import_module
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path

import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from artifacts.cache import cache_folder
from artifacts.folders import is_remote
from ghost.config import resolve_device
from ghost.errors import SettingsError
from tasks.doctor.check import Check, ok, problem, warning

DISTRIBUTION = "ghost-ssm"
SHOWN = ("torch", "transformers", "prefect", "boto3")
KERNELS = {
    "mamba-ssm": ("mamba_ssm.ops.triton.ssd_combined", "transformers computes Mamba2 in plain torch, slower"),
    "causal-conv1d": ("causal_conv1d", "transformers convolves in plain torch, slower"),
}
"""By distribution: the module that transformers needs of it, and what happens without."""
DRIVER = Path("/proc/driver/nvidia/version")
BFLOAT16_SINCE = (8, 0)
LITTLE_BYTES, SOME_BYTES = 1e9, 20e9
"""Of free disk: a small model's run needs the first, the checkpoint of a large one the second."""


def python() -> list[Check]:
    """The interpreter against requires-python."""
    found, wanted = platform.python_version(), metadata(DISTRIBUTION)["Requires-Python"]
    if found in SpecifierSet(wanted):
        return [ok("python", found)]
    return [problem("python", f"{found}, outside {wanted}", "install ghost with a Python of that range")]


def packages() -> list[Check]:
    """What is installed against the bounds of ghost's own metadata."""
    wanted = [Requirement(line) for line in requires(DISTRIBUTION) or ()]
    needed = [each for each in wanted if not each.marker or each.marker.evaluate({"extra": ""})]
    bad = [check for each in needed if (check := _outside(each))]
    if bad:
        return bad
    shown = ", ".join(f"{name} {version(name)}" for name in SHOWN)
    return [ok("packages", f"{len(needed)} within their bounds; {shown}")]


def _outside(wanted: Requirement) -> Check | None:
    name, remedy = f"package {wanted.name}", f"pip install '{wanted.name}{wanted.specifier}'"
    try:
        found = version(wanted.name)
    except PackageNotFoundError:
        return problem(name, "not installed", remedy)
    if wanted.specifier.contains(found, prereleases=True):
        return None
    return problem(name, f"{found}, outside {wanted.specifier}, which was tested", remedy)


def device() -> list[Check]:
    """What `--device auto` means here."""
    try:
        chosen = resolve_device("auto")
    except SettingsError as error:
        return [problem("device", str(error), "correct GHOST_DEVICE, or unset it")]
    if chosen.type == "cuda":
        return [_gpu(chosen)]
    if os.environ.get("GHOST_DEVICE") or not DRIVER.exists():
        return [ok("device", f"CPU, {torch.get_num_threads()} threads, float32")]
    built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    found = f"CPU, though there is an NVIDIA driver: torch {torch.__version__} is built {built}"
    return [warning("device", found, "install the torch wheel for this driver, and look at CUDA_VISIBLE_DEVICES")]


def _gpu(chosen: torch.device) -> Check:
    facts, capability = torch.cuda.get_device_properties(chosen), torch.cuda.get_device_capability(chosen)
    free, total = torch.cuda.mem_get_info(chosen)
    found = (
        f"{chosen}: {facts.name}, compute capability {capability[0]}.{capability[1]}, {free / 1e9:.0f} of "
        f"{total / 1e9:.0f} GB free, {torch.cuda.device_count()} in all"
    )
    if capability < BFLOAT16_SINCE:
        return warning("device", f"{found}; no bfloat16 arithmetic", "give --dtype float32")
    return ok("device", found)


def kernels() -> list[Check]:
    """The optional kernels: whether they can be imported, and what it means that they can't."""
    return [_kernel(name, module, effect) for name, (module, effect) in KERNELS.items()]


def _kernel(name: str, module: str, effect: str) -> Check:
    try:
        found = version(name)
    except PackageNotFoundError:
        if not torch.cuda.is_available():
            return ok(
                f"kernels {name}", f"not installed; only a GPU can use it, ghost itself doesn't need it: {effect}"
            )
        return warning(f"kernels {name}", f"not installed: {effect}", f"pip install '{DISTRIBUTION}[gpu]'")
    try:
        import_module(module)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        remedy = f"build it for this torch and CUDA, or pip uninstall {name}"
        return warning(f"kernels {name}", f"{found} can't be imported ({reason}): {effect}", remedy)
    if not torch.cuda.is_available():
        return warning(f"kernels {name}", f"{found} imports, but there is no GPU to run it: {effect}", "none needed")
    return ok(f"kernels {name}", f"{found} imports")


def disk(store: str | None) -> list[Check]:
    """Free space where ghost writes: its cache, temporary files, and a local store."""
    places = {"cache": (cache_folder(), "GHOST_CACHE"), "temporary": (Path(tempfile.gettempdir()), "TMPDIR")}
    if store and not is_remote(store):
        places["store"] = (Path(store).expanduser().absolute(), "--store")
    return [_space(f"disk {name}", folder, setting) for name, (folder, setting) in places.items()]


def _space(name: str, folder: Path, setting: str) -> Check:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    found, remedy = f"{free / 1e9:.1f} GB free at {folder}", f"free some space, or set {setting} to a larger disk"
    if not there.is_dir() or not os.access(there, os.W_OK):
        return problem(name, f"{there} cannot be written to", f"make it writable, or set {setting} to another folder")
    if free < LITTLE_BYTES:
        return problem(name, found, remedy)
    return warning(name, found, remedy) if free < SOME_BYTES else ok(name, found)
