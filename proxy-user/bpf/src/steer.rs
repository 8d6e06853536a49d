//! Taking the connections that come to the applications of a network namespace: a program and a map for each.
//!
//! `sk_lookup` cannot ask in which namespace it runs, and two pods may have the same address. So each namespace has an
//! instance of the program of its own, which differs in one thing: its map of ports.
//!
//! Nothing is pinned: when this process ends, links and programs go, and applications get their connections themselves.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd, RawFd};

use aya_obj::Object;
use aya_obj::generated::bpf_insn;
use proxy_core::snapshot::Inbound;
use proxy_ebpf_common::map;
use proxy_ebpf_common::value::InboundValue;
use proxy_io::bpf;
use proxy_io::netns::Netns;

use crate::maps::Table;

const _: () = assert!(Inbound::MOST_PORTS <= map::INBOUND_MAX as usize);

const PROGRAM: &str = "weir_sk_lookup";
/// What stands in the template for the descriptor of a namespace's own map.
const OWN_MAP: RawFd = -1;
/// Loads a 64-bit value, or a map; takes two instructions (BPF_LD | BPF_IMM | BPF_DW).
const LOAD_IMM64: u8 = 0x18;
/// Says that the value is the descriptor of a map (BPF_PSEUDO_MAP_FD).
const PSEUDO_MAP_FD: u8 = 1;

/// The program, with the maps that all instances share.
#[derive(Debug)]
pub struct Template {
    instructions: Vec<[u8; 8]>,
    /// Keeps open what the instructions name.
    _shared: Vec<OwnedFd>,
}

impl Template {
    /// Takes the program out of the kernel object; `map_fd` opens the maps that were made of it.
    pub(crate) fn new(bytes: &[u8], map_fd: impl Fn(&str) -> io::Result<OwnedFd>) -> io::Result<Self> {
        let refused = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
        let missing = || refused(format!("the object has no program {PROGRAM}"));
        let mut object = Object::parse(bytes).map_err(|error| refused(error.to_string()))?;
        let program = object.programs.get(PROGRAM).ok_or_else(missing)?;
        let key = program.function_key();
        object.functions.retain(|other, _| *other == key);
        let definitions = std::mem::take(&mut object.maps);
        let mut maps = vec![(map::INBOUND, OWN_MAP)];
        let mut shared = Vec::new();
        for name in [map::LISTENERS, map::HEARTBEATS] {
            let fd = map_fd(name)?;
            maps.push((name, fd.as_raw_fd()));
            shared.push(fd);
        }
        let maps = maps.iter().filter_map(|(name, fd)| Some((*name, *fd, definitions.get(*name)?)));
        let relocated = object.relocate_maps(maps, &HashSet::from([key.0]));
        relocated.map_err(|error| refused(error.to_string()))?;
        let function = object.functions.remove(&key).ok_or_else(missing)?;
        let bytes = |insn: &bpf_insn| {
            let ([off_low, off_high], [a, b, c, d]) = (insn.off.to_ne_bytes(), insn.imm.to_ne_bytes());
            [insn.code, insn.src_reg() << 4 | insn.dst_reg(), off_low, off_high, a, b, c, d]
        };
        // The map of ports is named once; without it every namespace would have the same.
        let instructions = function.instructions.iter().map(bytes).collect();
        let template = Self { instructions, _shared: shared };
        match template.instructions.iter().filter(|insn| names_own_map(insn)).count() {
            0 => Err(refused(format!("the program does not name the map {}", map::INBOUND))),
            _ => Ok(template),
        }
    }

    fn instance(&self, ports: RawFd) -> io::Result<OwnedFd> {
        let instructions = self.instructions.iter().map(|insn| {
            let mut insn = *insn;
            if names_own_map(&insn) {
                insn[4..].copy_from_slice(&ports.to_ne_bytes());
            }
            insn
        });
        bpf::load_sk_lookup(PROGRAM, &instructions.collect::<Vec<_>>())
    }
}

fn names_own_map(insn: &[u8; 8]) -> bool {
    insn[0] == LOAD_IMM64 && insn[1] >> 4 == PSEUDO_MAP_FD && insn[4..] == OWN_MAP.to_ne_bytes()
}

/// The program of one network namespace, attached there; gone when dropped.
#[derive(Debug)]
pub struct Steering {
    ports: Table<u16, InboundValue>,
    _link: OwnedFd,
}

impl Steering {
    /// Attaches the program to a namespace. It takes nothing yet.
    ///
    /// # Errors
    /// What bpf(2) says.
    pub fn attach(template: &Template, netns: &Netns) -> io::Result<Self> {
        let ports = bpf::hash_create(size_of::<u16>(), size_of::<InboundValue>(), map::INBOUND_MAX)?;
        let program = template.instance(ports.as_raw_fd())?;
        let link = bpf::link_create_netns(program.as_fd(), netns.fd())?;
        Ok(Self { ports: Table::new(ports)?, _link: link })
    }

    /// Ports whose connections are taken: from now on these.
    ///
    /// # Errors
    /// What bpf(2) says; some may have changed then.
    pub fn set_ports(&self, wanted: &HashSet<u16>, value: &InboundValue) -> io::Result<()> {
        for port in self.ports.keys()? {
            if !wanted.contains(&port) {
                self.ports.remove(&port)?;
            }
        }
        wanted.iter().try_for_each(|port| self.ports.put(port, value))
    }
}
