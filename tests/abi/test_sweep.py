"""The model's states of flows, and the object that walks conntrack, are as bpf/abi.py says."""

from __future__ import annotations

import pytest
from elftools.elf.elffile import ELFFile

from bpf import abi
from bpf.objects import OBJECT_DIRECTORY
from dataplane.drivers import sweeps
from dataplane.model.conntrack import FlowState

pytestmark = pytest.mark.abi


def test_the_models_states_are_the_programs() -> None:
    states = {
        name.removeprefix("CT_"): int(number) for name, number in abi.CtState.__members__.items()
    }
    assert states.pop("STATES") > max(FlowState)
    assert {state.name: int(state) for state in FlowState} == states


def test_the_programs_are_found_by_the_names_that_the_driver_asks_for() -> None:
    with (OBJECT_DIRECTORY / "sweep.bpf.o").open("rb") as file:
        elf = ELFFile(file)
        section = elf.get_section_index("syscall")
        symbols = elf.get_section_by_name(".symtab").iter_symbols()
        functions = {
            symbol.name
            for symbol in symbols
            if symbol["st_shndx"] == section and symbol["st_info"]["bind"] == "STB_GLOBAL"
        }
        licence = elf.get_section_by_name("license").data()
    assert functions == set(sweeps._PROGRAMS.values())
    assert all(len(name) <= 15 for name in functions)
    assert licence == b"Apache-2.0\0"


def test_a_sweeps_structs_are_the_compilers() -> None:
    wanted = {layout.name: layout for layout in (abi.SWEEP, abi.SWEEP_KEY, abi.FLOW4, abi.FLOW6)}
    seen = {}
    with (OBJECT_DIRECTORY / "sweep.bpf.o").open("rb") as file:
        dwarf = ELFFile(file).get_dwarf_info()
        for unit in dwarf.iter_CUs():
            for entry in unit.iter_DIEs():
                name = entry.attributes.get("DW_AT_name")
                if entry.tag != "DW_TAG_structure_type" or name is None:
                    continue
                if (text := name.value.decode()) in wanted:
                    seen[text] = (
                        entry.attributes["DW_AT_byte_size"].value,
                        {
                            member.attributes["DW_AT_name"].value.decode(): member.attributes[
                                "DW_AT_data_member_location"
                            ].value
                            for member in entry.iter_children()
                        },
                    )
    assert seen == {name: (layout.size, layout.offsets()) for name, layout in wanted.items()}
