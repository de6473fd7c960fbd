"""bpf/abi.py says what the compiled objects say: every size, offset, enumerator and map."""

from __future__ import annotations

import subprocess
from enum import IntEnum, IntFlag
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile

from bpf import abi
from bpf.objects import OBJECT_DIRECTORY
from dataplane.model.rows import AddressFlag, VipFlag
from dataplane.plan import services

pytestmark = pytest.mark.abi

PROGRAMS = {"uplink": ["millrace_uplink"], "svc": ["millrace_svc"], "host": ["millrace_host"]}
SECTIONS = {"host": "tc"}
"""Where a program's function is, if not in xdp."""
OBJECTS = (*PROGRAMS, "sock", "sockpeers", "sweep", "adopt", "tidy", "perf_wrapper", "perf_peers")
KERNEL_NAME_LENGTH = 15


@pytest.fixture(scope="session")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The objects, and one that mentions every type of abi.h, compiled as the others are."""
    directory = tmp_path_factory.mktemp("abi")
    source = directory / "every.bpf.c"
    structs = "".join(f"struct {layout.name} every_{layout.name};\n" for layout in abi.LAYOUTS)
    enums = "".join(f"enum {name} every_{name};\n" for name in ENUMS)
    source.write_text(f'#include "abi.h"\n{structs}{enums}')
    multiarch = subprocess.run(["uname", "-m"], check=True, capture_output=True, text=True)
    include = Path(abi.__file__).parent / "include"
    flags = ["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-I", str(include)]
    flags += ["-isystem", f"/usr/include/{multiarch.stdout.strip()}-linux-gnu"]
    made = directory / "every.bpf.o"
    subprocess.run(["clang", *flags, "-c", str(source), "-o", str(made)], check=True)
    compiled = {name: OBJECT_DIRECTORY / f"{name}.bpf.o" for name in OBJECTS}
    return {"every": made, **compiled}


ENUMS: dict[str, type[IntEnum | IntFlag]] = {
    "limit": abi.Limit,
    "vip_flag": abi.VipFlag,
    "place": abi.Place,
    "set_mode": abi.SetMode,
    "address_flag": abi.AddressFlag,
    "ct_state": abi.CtState,
    "flow_flag": abi.FlowFlag,
    "node_flag": abi.NodeFlag,
    "reason": abi.Reason,
    "event": abi.Event,
    "sock_flag": abi.SockFlag,
    "sock_side": abi.SockSide,
    "traffic_way": abi.TrafficWay,
    "sweep_side": abi.SweepSide,
    "sweep_flag": abi.SweepFlag,
    "adopt_flag": abi.AdoptFlag,
}


def entries(path: Path) -> list[Any]:
    """All DWARF entries of an object."""
    with path.open("rb") as file:
        dwarf = ELFFile(file).get_dwarf_info()
        return [entry for unit in dwarf.iter_CUs() for entry in unit.iter_DIEs()]


def name_of(entry: Any) -> str:
    attribute = entry.attributes.get("DW_AT_name")
    return attribute.value.decode() if attribute else ""


def structs(path: Path) -> dict[str, tuple[int, dict[str, int]]]:
    """Size, and offset of each member, of every struct."""
    return {
        name_of(entry): (
            entry.attributes["DW_AT_byte_size"].value,
            {
                name_of(member): member.attributes["DW_AT_data_member_location"].value
                for member in entry.iter_children()
                if member.tag == "DW_TAG_member"
            },
        )
        for entry in entries(path)
        if entry.tag == "DW_TAG_structure_type" and "DW_AT_byte_size" in entry.attributes
    }


def enumerators(path: Path) -> dict[str, dict[str, int]]:
    return {
        name_of(entry): {
            name_of(child): child.attributes["DW_AT_const_value"].value
            for child in entry.iter_children()
        }
        for entry in entries(path)
        if entry.tag == "DW_TAG_enumeration_type"
    }


@pytest.mark.parametrize("layout", abi.LAYOUTS, ids=lambda layout: str(layout.name))
def test_a_layout_is_the_compilers(objects: dict[str, Path], layout: abi.Layout) -> None:
    size, members = structs(objects["every"])[layout.name]
    assert layout.size == size
    assert layout.offsets() == members


@pytest.mark.parametrize("program", [o for o in OBJECTS if o != "perf_peers"])
def test_the_shipped_object_was_built_from_these_headers(
    objects: dict[str, Path], program: str
) -> None:
    wanted = {layout.name: layout for layout in abi.LAYOUTS}
    seen = {name: found for name, found in structs(objects[program]).items() if name in wanted}
    assert seen
    for name, (size, members) in seen.items():
        assert (wanted[name].size, wanted[name].offsets()) == (size, members), name


@pytest.mark.parametrize("name", ENUMS)
def test_an_enum_is_the_compilers(objects: dict[str, Path], name: str) -> None:
    found = enumerators(objects["every"])[name]
    found.pop("REASON_END", None)
    assert {key: value.value for key, value in ENUMS[name].__members__.items()} == found


def test_reasons_are_numbered_without_gaps_and_fit_their_map() -> None:
    assert [reason.value for reason in abi.Reason] == list(range(len(abi.Reason)))
    assert len(abi.Reason) <= min(abi.Event)
    assert max(abi.Event) < abi.Limit.MAX_REASONS


def test_the_model_has_the_same_numbers() -> None:
    for mine, theirs in ((VipFlag, abi.VipFlag), (AddressFlag, abi.AddressFlag)):
        numbers = {name.partition("_")[2]: int(flag) for name, flag in theirs.__members__.items()}
        assert {flag.name: int(flag) for flag in mine} == numbers
    assert services.MAX_SERVICES < abi.Limit.MAX_SERVICES
    assert services.MAX_BACKENDS < abi.Limit.MAX_BACKENDS


@pytest.mark.parametrize("layout", abi.LAYOUTS, ids=lambda layout: str(layout.name))
def test_what_is_packed_is_unpacked(layout: abi.Layout) -> None:
    octets = bytes(range(256)) * (layout.size // 256 + 1)
    assert layout.pack(**layout.unpack(octets[: layout.size])) == octets[: layout.size]


def test_a_field_of_another_struct_is_refused() -> None:
    with pytest.raises(KeyError, match="struct vip has no field addr"):
        abi.VIP.pack(addr=b"")


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_is_in_its_section_under_a_name_the_kernel_keeps(
    objects: dict[str, Path], program: str
) -> None:
    with objects[program].open("rb") as file:
        elf = ELFFile(file)
        sections = {one.name for one in elf.iter_sections()}
        symbols = elf.get_section_by_name(".symtab")
        section = SECTIONS.get(program, "xdp")
        place = elf.get_section_index(section)
        functions = [one.name for one in symbols.iter_symbols() if one["st_shndx"] == place]
        licence = elf.get_section_by_name("license").data()
    assert {section, ".maps", "license", ".BTF", ".BTF.ext"} <= sections
    assert [name for name in functions if not name.startswith("LBB") and name] == PROGRAMS[program]
    assert all(len(name) <= KERNEL_NAME_LENGTH for name in PROGRAMS[program])
    assert licence == b"Apache-2.0\0"


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_object_has_the_maps_that_the_codec_knows(
    objects: dict[str, Path], program: str
) -> None:
    with objects[program].open("rb") as file:
        elf = ELFFile(file)
        index = elf.get_section_index(".maps")
        symbols = elf.get_section_by_name(".symtab").iter_symbols()
        found = {symbol.name for symbol in symbols if symbol["st_shndx"] == index and symbol.name}
    private = {"scratch", "ct_work", "rare_room", "answering", "host_room"}
    own = {"xsks_map"} if program == "uplink" else set()
    assert found - private == set(abi.MAPS) | own
