"""The C types of libbpf and the kernel that `dataplane.drivers.libbpf` passes, and prototypes.

Structures may be shorter than the kernel's: libbpf and the kernel take their size along.

Source: libbpf 1.1 headers; uapi linux/bpf.h.
"""

# ctypes reads `_fields_` when the class is made; a list there is its own idiom.
# mypy: disable-error-code="mutable-override"

from __future__ import annotations

import ctypes as c

LIBBPF_WARN = 0
PER_CPU_TYPES = frozenset({5, 6, 10, 21})
"""PERCPU_HASH, PERCPU_ARRAY, LRU_PERCPU_HASH, PERCPU_CGROUP_STORAGE of enum bpf_map_type."""

PRINT = c.CFUNCTYPE(c.c_int, c.c_int, c.c_char_p, c.c_void_p)
"""libbpf_print_fn_t; the va_list is handed on as it comes (a pointer on x86-64 and arm64)."""


class OpenOptions(c.Structure):
    """struct bpf_object_open_opts, its beginning."""

    _fields_ = [
        ("sz", c.c_size_t),
        ("object_name", c.c_char_p),
        ("relaxed_maps", c.c_bool),
        ("pin_root_path", c.c_char_p),
    ]


class BatchOptions(c.Structure):
    """struct bpf_map_batch_opts."""

    _fields_ = [("sz", c.c_size_t), ("elem_flags", c.c_uint64), ("flags", c.c_uint64)]


class LinkCreateOptions(c.Structure):
    """struct bpf_link_create_opts, its beginning."""

    _fields_ = [("sz", c.c_size_t), ("flags", c.c_uint32), ("pad", c.c_uint32)]


class IteratorMap(c.Structure):
    """union bpf_iter_link_info of an iterator over a map."""

    _fields_ = [("map_fd", c.c_uint32), ("rest", c.c_uint32 * 3)]


class IteratorLinkOptions(c.Structure):
    """struct bpf_link_create_opts of an iterator, its beginning."""

    _fields_ = [
        ("sz", c.c_size_t),
        ("flags", c.c_uint32),
        ("pad", c.c_uint32),
        ("iter_info", c.c_void_p),
        ("iter_info_len", c.c_uint32),
        ("pad2", c.c_uint32),
    ]


class LinkUpdateOptions(c.Structure):
    """struct bpf_link_update_opts."""

    _fields_ = [("sz", c.c_size_t), ("flags", c.c_uint32), ("old_prog_fd", c.c_uint32)]


class XdpAttachOptions(c.Structure):
    """struct bpf_xdp_attach_opts."""

    _fields_ = [("sz", c.c_size_t), ("old_prog_fd", c.c_int), ("pad", c.c_int)]


class XdpQueryOptions(c.Structure):
    """struct bpf_xdp_query_opts; attach_mode is enum xdp_attach_mode of linux/if_link.h."""

    _fields_ = [
        ("sz", c.c_size_t),
        ("prog_id", c.c_uint32),
        ("drv_prog_id", c.c_uint32),
        ("hw_prog_id", c.c_uint32),
        ("skb_prog_id", c.c_uint32),
        ("attach_mode", c.c_uint8),
        ("pad", c.c_uint8 * 7),
    ]


class XdpMd(c.Structure):
    """struct xdp_md."""

    _fields_ = [
        ("data", c.c_uint32),
        ("data_end", c.c_uint32),
        ("data_meta", c.c_uint32),
        ("ingress_ifindex", c.c_uint32),
        ("rx_queue_index", c.c_uint32),
        ("egress_ifindex", c.c_uint32),
    ]


class TestRunOptions(c.Structure):
    """struct bpf_test_run_opts."""

    __test__ = False  # pytest collects classes by this name's beginning

    _fields_ = [
        ("sz", c.c_size_t),
        ("data_in", c.c_void_p),
        ("data_out", c.c_void_p),
        ("data_size_in", c.c_uint32),
        ("data_size_out", c.c_uint32),
        ("ctx_in", c.c_void_p),
        ("ctx_out", c.c_void_p),
        ("ctx_size_in", c.c_uint32),
        ("ctx_size_out", c.c_uint32),
        ("retval", c.c_uint32),
        ("repeat", c.c_int),
        ("duration", c.c_uint32),
        ("flags", c.c_uint32),
        ("cpu", c.c_uint32),
        ("batch_size", c.c_uint32),
    ]


class MapInfo(c.Structure):
    """struct bpf_map_info, its beginning."""

    _fields_ = [
        ("type", c.c_uint32),
        ("id", c.c_uint32),
        ("key_size", c.c_uint32),
        ("value_size", c.c_uint32),
        ("max_entries", c.c_uint32),
        ("map_flags", c.c_uint32),
        ("name", c.c_char * 16),
    ]


class ProgInfo(c.Structure):
    """struct bpf_prog_info, up to run_cnt."""

    _fields_ = [
        ("type", c.c_uint32),
        ("id", c.c_uint32),
        ("tag", c.c_uint8 * 8),
        ("jited_prog_len", c.c_uint32),
        ("xlated_prog_len", c.c_uint32),
        ("jited_prog_insns", c.c_uint64),
        ("xlated_prog_insns", c.c_uint64),
        ("load_time", c.c_uint64),
        ("created_by_uid", c.c_uint32),
        ("nr_map_ids", c.c_uint32),
        ("map_ids", c.c_uint64),
        ("name", c.c_char * 16),
        ("ifindex", c.c_uint32),
        ("gpl_compatible", c.c_uint32),
        ("netns_dev", c.c_uint64),
        ("netns_ino", c.c_uint64),
        ("nr_jited_ksyms", c.c_uint32),
        ("nr_jited_func_lens", c.c_uint32),
        ("jited_ksyms", c.c_uint64),
        ("jited_func_lens", c.c_uint64),
        ("btf_id", c.c_uint32),
        ("func_info_rec_size", c.c_uint32),
        ("func_info", c.c_uint64),
        ("nr_func_info", c.c_uint32),
        ("nr_line_info", c.c_uint32),
        ("line_info", c.c_uint64),
        ("jited_line_info", c.c_uint64),
        ("nr_jited_line_info", c.c_uint32),
        ("line_info_rec_size", c.c_uint32),
        ("jited_line_info_rec_size", c.c_uint32),
        ("nr_prog_tags", c.c_uint32),
        ("prog_tags", c.c_uint64),
        ("run_time_ns", c.c_uint64),
        ("run_cnt", c.c_uint64),
    ]


class LinkInfo(c.Structure):
    """struct bpf_link_info of an XDP link."""

    _fields_ = [
        ("type", c.c_uint32),
        ("id", c.c_uint32),
        ("prog_id", c.c_uint32),
        ("pad", c.c_uint32),
        ("ifindex", c.c_uint32),
        ("rest", c.c_uint8 * 44),
    ]


class CgroupLinkInfo(c.Structure):
    """struct bpf_link_info of a link to a cgroup."""

    _fields_ = [
        ("type", c.c_uint32),
        ("id", c.c_uint32),
        ("prog_id", c.c_uint32),
        ("pad", c.c_uint32),
        ("cgroup_id", c.c_uint64),
        ("attach_type", c.c_uint32),
        ("rest", c.c_uint8 * 36),
    ]


_FD, _U32, _U64, _PTR, _STR = c.c_int, c.c_uint32, c.c_uint64, c.c_void_p, c.c_char_p

_INTEGERS = {
    "libbpf_num_possible_cpus": (),
    "bpf_object__load": (_PTR,),
    "bpf_map__fd": (_PTR,),
    "bpf_map__reuse_fd": (_PTR, _FD),
    "bpf_map__set_pin_path": (_PTR, _STR),
    "bpf_map__set_max_entries": (_PTR, c.c_uint32),
    "bpf_map__set_initial_value": (_PTR, _PTR, c.c_size_t),
    "bpf_program__fd": (_PTR,),
    "bpf_obj_get": (_STR,),
    "bpf_obj_pin": (_FD, _STR),
    "bpf_obj_get_info_by_fd": (_FD, _PTR, _PTR),
    "bpf_map_create": (_U32, _STR, _U32, _U32, _U32, _PTR),
    "bpf_map_get_fd_by_id": (_U32,),
    "bpf_map_lookup_elem": (_FD, _PTR, _PTR),
    "bpf_map_update_elem": (_FD, _PTR, _PTR, _U64),
    "bpf_map_delete_elem": (_FD, _PTR),
    "bpf_map_get_next_key": (_FD, _PTR, _PTR),
    "bpf_map_lookup_batch": (_FD, _PTR, _PTR, _PTR, _PTR, _PTR, _PTR),
    "bpf_map_update_batch": (_FD, _PTR, _PTR, _PTR, _PTR),
    "bpf_prog_get_fd_by_id": (_U32,),
    "bpf_prog_test_run_opts": (_FD, _PTR),
    "bpf_enable_stats": (_U32,),
    "bpf_iter_create": (_FD,),
    "bpf_link_create": (_FD, _FD, c.c_int, _PTR),
    "bpf_link_update": (_FD, _FD, _PTR),
    "bpf_xdp_attach": (c.c_int, _FD, _U32, _PTR),
    "bpf_xdp_detach": (c.c_int, _U32, _PTR),
    "bpf_xdp_query": (c.c_int, c.c_int, _PTR),
}

_POINTERS = {
    "bpf_object__open_mem": (_STR, c.c_size_t, _PTR),
    "bpf_object__find_map_by_name": (_PTR, _STR),
    "bpf_object__find_program_by_name": (_PTR, _STR),
}


def declare(library: c.CDLL) -> None:
    """Tell ctypes the prototypes of every function that we call."""
    for names, result in ((_INTEGERS, c.c_int), (_POINTERS, c.c_void_p)):
        for name, arguments in names.items():
            function = getattr(library, name)
            function.argtypes = arguments
            function.restype = result
    library.libbpf_set_print.argtypes = [PRINT]
    library.libbpf_set_print.restype = c.c_void_p
    library.bpf_object__close.argtypes = [c.c_void_p]
    library.bpf_object__close.restype = None
