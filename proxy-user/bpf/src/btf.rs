//! Offsets of kernel struct fields, read from the kernel's own BTF: rustc has no CO-RE, and aya keeps its parser's
//! members private.
//!
//! Format: Documentation/bpf/btf.rst. Only what a search for struct members needs is parsed.

use std::path::Path;

const MAGIC: u16 = 0xeb9f;
/// Where the kernel shows its BTF.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Why an offset could not be found.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// The kernel was built without BTF, or it cannot be read.
    #[error("cannot read {VMLINUX} (a kernel with CONFIG_DEBUG_INFO_BTF is needed): {0}")]
    Read(#[from] std::io::Error),
    /// The file is no BTF of a version that is understood.
    #[error("{VMLINUX} is no BTF that is understood: {0}")]
    Format(&'static str),
    /// The kernel's struct has no such member.
    #[error("this kernel's struct {0} has no member {1}")]
    Missing(String, String),
}

/// Offsets in bytes within `struct tcp_sock` that the kernel programs read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpOffsets {
    /// `sk_err`, an int.
    pub sk_err: u32,
    /// `skc_state`, a byte.
    pub state: u32,
    /// `srtt_us`, a u32 (shifted by 3).
    pub srtt_us: u32,
    /// Lowest value of the `rtt_min` filter, a u32.
    pub rtt_min: u32,
    /// `bytes_acked`, a u64.
    pub bytes_acked: u32,
    /// `bytes_received`, a u64.
    pub bytes_received: u32,
    /// `total_retrans`, a u32.
    pub total_retrans: u32,
}

impl TcpOffsets {
    /// Reads them from the running kernel.
    ///
    /// # Errors
    /// See [`BtfError`].
    pub fn from_kernel() -> Result<Self, BtfError> {
        Self::from_btf(&std::fs::read(Path::new(VMLINUX))?)
    }

    /// Finds them in the bytes of a BTF file.
    ///
    /// # Errors
    /// See [`BtfError`].
    pub fn from_btf(bytes: &[u8]) -> Result<Self, BtfError> {
        let btf = Btf::parse(bytes)?;
        let tcp = |path: &[&str]| btf.offset("tcp_sock", path);
        let sk = ["inet_conn", "icsk_inet", "sk"];
        let sock = |member: &'static str| tcp(&[sk[0], sk[1], sk[2], member]);
        // struct minmax { struct minmax_sample { u32 t, v; } s[3]; } (include/linux/win_minmax.h)
        let sample_value = btf.offset("minmax_sample", &["v"])?;
        Ok(Self {
            sk_err: sock("sk_err")?,
            state: tcp(&[sk[0], sk[1], sk[2], "__sk_common", "skc_state"])?,
            srtt_us: tcp(&["srtt_us"])?,
            rtt_min: tcp(&["rtt_min"])? + sample_value,
            bytes_acked: tcp(&["bytes_acked"])?,
            bytes_received: tcp(&["bytes_received"])?,
            total_retrans: tcp(&["total_retrans"])?,
        })
    }
}

/// Kinds of types (Documentation/bpf/btf.rst).
mod kind {
    pub(super) const INT: u32 = 1;
    pub(super) const ARRAY: u32 = 3;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const TYPEDEF: u32 = 8;
    pub(super) const VOLATILE: u32 = 9;
    pub(super) const CONST: u32 = 10;
    pub(super) const RESTRICT: u32 = 11;
    pub(super) const FUNC_PROTO: u32 = 13;
    pub(super) const VAR: u32 = 14;
    pub(super) const DATASEC: u32 = 15;
    pub(super) const DECL_TAG: u32 = 17;
    pub(super) const TYPE_TAG: u32 = 18;
    pub(super) const ENUM64: u32 = 19;
}

/// Members looked at in the search for one; `struct tcp_sock` has some 300, and recursion stays this shallow, too.
const MOST_LOOKS: u32 = 2000;
/// Typedefs and qualifiers between a member and its struct; the kernel has a handful.
const MOST_STEPS: usize = 32;

struct Btf<'a> {
    /// Start of each type in `types`; index 0 is void.
    starts: Vec<usize>,
    types: &'a [u8],
    strings: &'a [u8],
}

impl<'a> Btf<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, BtfError> {
        let short = BtfError::Format("it is too short");
        let magic = bytes.first_chunk::<2>().map(|b| u16::from_ne_bytes(*b));
        if magic != Some(MAGIC) {
            return Err(BtfError::Format("wrong magic"));
        }
        let header = |index: usize| word(bytes, 4 + 4 * index).ok_or(BtfError::Format("it is too short"));
        let (header_bytes, types_at, types_len, strings_at, strings_len) =
            (header(0)?, header(1)?, header(2)?, header(3)?, header(4)?);
        let section = |at: usize, len: usize| bytes.get(header_bytes.checked_add(at)?..)?.get(..len);
        let (Some(types), Some(strings)) = (section(types_at, types_len), section(strings_at, strings_len))
        else {
            return Err(short);
        };
        let mut starts = vec![usize::MAX];
        let mut at = 0;
        while at < types.len() {
            starts.push(at);
            let info = word(types, at + 4).ok_or(BtfError::Format("a type is cut off"))?;
            at += 12 + trailer_bytes(info).ok_or(BtfError::Format("a type of unknown kind"))?;
        }
        Ok(Self { starts, types, strings })
    }

    /// Offset in bytes of a member, given as a path of named members; anonymous structs on the way are looked through.
    fn offset(&self, name: &str, path: &[&str]) -> Result<u32, BtfError> {
        let missing = || BtfError::Missing(name.to_owned(), path.join("."));
        let mut at = *self
            .starts
            .iter()
            .skip(1)
            .find(|at| self.kind(**at) == Some(kind::STRUCT) && self.name(**at) == Some(name.as_bytes()))
            .ok_or_else(missing)?;
        let mut bits = 0;
        for member in path {
            let mut looks = MOST_LOOKS;
            let (offset, next) = self.member(at, member.as_bytes(), &mut looks).ok_or_else(missing)?;
            bits += offset;
            at = next;
        }
        u32::try_from(bits / 8).map_err(|_| missing())
    }

    /// Finds a member of a struct or union: its offset in bits and where its type starts.
    ///
    /// Gives up when `looks` are used up: in a file that is no kernel's, structs may contain themselves.
    fn member(&self, at: usize, wanted: &[u8], looks: &mut u32) -> Option<(usize, usize)> {
        let info = word(self.types, at + 4)?;
        let is_bitfield = info >> 31 == 1;
        for index in 0..info & 0xffff {
            *looks = looks.checked_sub(1)?;
            let member_at = at + 12 + 12 * index;
            let raw = word(self.types, member_at + 8)?;
            let offset = if is_bitfield { raw & 0x00ff_ffff } else { raw };
            let type_at = self.resolve(word(self.types, member_at + 4)?);
            let name = self.string(word(self.types, member_at)?)?;
            if name == wanted {
                return Some((offset, type_at.unwrap_or(usize::MAX)));
            }
            if let (b"", Some(inner)) = (name, type_at)
                && let Some((inner_offset, found)) = self.member(inner, wanted, looks)
            {
                return Some((offset + inner_offset, found));
            }
        }
        None
    }

    /// Follows typedefs and qualifiers to a struct or union.
    fn resolve(&self, mut id: usize) -> Option<usize> {
        for _ in 0..MOST_STEPS {
            let at = *self.starts.get(id).filter(|at| **at != usize::MAX)?;
            match self.kind(at)? {
                kind::STRUCT | kind::UNION => return Some(at),
                kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => {
                    id = word(self.types, at + 8)?;
                }
                _ => return None,
            }
        }
        None
    }

    fn kind(&self, at: usize) -> Option<u32> {
        word(self.types, at + 4).and_then(kind_of)
    }

    fn name(&self, at: usize) -> Option<&'a [u8]> {
        self.string(word(self.types, at)?)
    }

    fn string(&self, offset: usize) -> Option<&'a [u8]> {
        let rest = self.strings.get(offset..)?;
        rest.split(|byte| *byte == 0).next()
    }
}

fn kind_of(info: usize) -> Option<u32> {
    u32::try_from((info >> 24) & 0x1f).ok()
}

/// Bytes that follow the 12-byte head of a type.
fn trailer_bytes(info: usize) -> Option<usize> {
    let count = info & 0xffff;
    Some(match kind_of(info)? {
        kind::INT | kind::VAR | kind::DECL_TAG => 4,
        kind::ARRAY => 12,
        kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => 12 * count,
        kind::ENUM | kind::FUNC_PROTO => 8 * count,
        // pointer, forward, typedef, volatile, const, restrict, function, float, type tag
        2 | 7..=12 | 16 | kind::TYPE_TAG => 0,
        _ => return None,
    })
}

fn word(bytes: &[u8], at: usize) -> Option<usize> {
    let chunk = bytes.get(at..)?.first_chunk::<4>()?;
    usize::try_from(u32::from_ne_bytes(*chunk)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_kernels_offsets_are_plausible() {
        if !Path::new(VMLINUX).exists() {
            eprintln!("SKIPPED: this kernel shows no BTF");
            return;
        }
        let offsets = TcpOffsets::from_kernel().unwrap();
        // skc_state follows family within the first 32 bytes of every kernel since 4.x.
        assert!(offsets.state < 32, "{offsets:?}");
        assert!(offsets.sk_err > offsets.state && offsets.srtt_us > offsets.sk_err, "{offsets:?}");
        assert!(
            offsets.bytes_acked.is_multiple_of(8) && offsets.bytes_received.is_multiple_of(8),
            "{offsets:?}"
        );
    }

    #[test]
    fn types_that_contain_themselves_are_refused() {
        // minmax_sample with an anonymous member that is the struct itself, then one that is a typedef of itself
        let words = |parts: &[u32]| parts.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<_>>();
        let types = words(&[
            1,
            kind::STRUCT << 24 | 2,
            8,
            0,
            1,
            0,
            0,
            2,
            0, //
            0,
            kind::TYPEDEF << 24,
            2,
        ]);
        let strings = b"\0minmax_sample\0";
        let lens = [types.len(), types.len(), strings.len()].map(|len| u32::try_from(len).unwrap());
        let mut bytes = words(&[u32::from(MAGIC) | 1 << 16, 24, 0, lens[0], lens[1], lens[2]]);
        bytes.extend(types);
        bytes.extend(strings);
        let btf = Btf::parse(&bytes).unwrap();
        assert!(matches!(btf.offset("minmax_sample", &["v"]), Err(BtfError::Missing(..))));
    }

    #[test]
    fn garbage_is_refused() {
        assert!(matches!(Btf::parse(b""), Err(BtfError::Format(_))));
        assert!(matches!(Btf::parse(&[0x9f, 0xeb, 1, 0, 24, 0]), Err(BtfError::Format(_))));
        let mut bytes = vec![0u8; 64];
        bytes[..2].copy_from_slice(&MAGIC.to_ne_bytes());
        bytes[4..8].copy_from_slice(&24u32.to_ne_bytes());
        bytes[12..16].copy_from_slice(&9999u32.to_ne_bytes());
        assert!(matches!(Btf::parse(&bytes), Err(BtfError::Format(_))));
    }
}
