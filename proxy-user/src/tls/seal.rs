//! The protection of records (RFC 8446, 5.2; RFC 5246, 6.2.3; RFC 5288; RFC 7905): one direction, one key at a time.
//!
//! rustls makes the handshake and the keys. Its own record layer allocates and copies every record twice in each
//! direction; here a record is sealed where it will be sent from and opened where it was collected.

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};
use rustls::{
    AlertDescription, ConnectionTrafficSecrets, ContentType, ProtocolVersion, SupportedCipherSuite,
};

use super::error::Fault;
use crate::bug;

/// Type, version and length.
pub(super) const HEAD_BYTES: usize = 5;
/// Most plaintext in a record (RFC 8446, 5.1).
pub(super) const PLAIN_BYTES: usize = 1 << 14;
/// What sealing adds at most: the head, an explicit nonce or the inner type, and the tag.
pub(super) const OVERHEAD_BYTES: usize = HEAD_BYTES + EXPLICIT_BYTES + TAG_BYTES;
const TAG_BYTES: usize = 16;
const NONCE_BYTES: usize = 12;
/// Part of the nonce that AES-GCM sends along in TLS 1.2.
const EXPLICIT_BYTES: usize = 8;
/// Most that a protected record may be longer than its plaintext, by version.
const EXPANSION_V1_3: usize = 256;
const EXPANSION_V1_2: usize = 2048;
/// Blocks of AES that a full record takes: one for each 16 bytes, and one for the tag.
///
/// How long a key lasts is said in full records (RFC 8446, 5.5), but it is blocks that the bound is about (Luykx and Paterson 2016,
/// "Limits on Authenticated Encryption Use in TLS"): small records let a key last for many more of them.
const FULL_BLOCKS: u64 = blocks(PLAIN_BYTES);
/// What is kept for that which is under way when a key is nearly worn: 16 GiB of the 256 that AES-GCM may protect.
const LAST_BLOCKS: u64 = FULL_BLOCKS << 20;
/// Version that every record of both versions bears.
const LEGACY_VERSION: [u8; 2] = [3, 3];

/// How nonces and additional data are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    V1_3,
    V1_2Gcm,
    V1_2ChaCha,
}

/// A key with its nonces.
struct Key {
    key: LessSafeKey,
    iv: [u8; NONCE_BYTES],
    form: Form,
    /// Number of the next record.
    seq: u64,
}

/// Protects what is sent.
pub(super) struct Sealer {
    key: Key,
    /// Blocks that may still be sealed with this key; none if there is no bound.
    left_blocks: Option<u64>,
}

/// Opens what is received.
pub(super) struct Opener {
    key: Key,
}

/// Head of a record as it came.
pub(super) type Head = [u8; HEAD_BYTES];

impl Sealer {
    pub(super) fn new(
        suite: SupportedCipherSuite,
        (seq, secrets): (u64, ConnectionTrafficSecrets),
    ) -> Result<Self, Fault> {
        let records = match suite {
            SupportedCipherSuite::Tls12(suite) => suite.common.confidentiality_limit,
            SupportedCipherSuite::Tls13(suite) => suite.common.confidentiality_limit,
        };
        let left_blocks = records
            .checked_mul(FULL_BLOCKS)
            .and_then(|_| bug::bound("key-records", records).checked_mul(FULL_BLOCKS));
        Ok(Self { key: Key::new(suite, seq, secrets)?, left_blocks })
    }

    /// Whether it is time to begin nothing more that the key would have to protect.
    pub(super) fn is_wearing(&self) -> bool {
        self.left_blocks.is_some_and(|left| left < LAST_BLOCKS)
    }

    /// Whether the key should be changed before the next record.
    pub(super) fn is_worn(&self) -> bool {
        self.left_blocks.is_some_and(|left| left < FULL_BLOCKS)
    }

    /// Lets the key wear out after this many more records of a block each.
    #[cfg(test)]
    pub(super) fn set_left(&mut self, records: u64) {
        self.left_blocks = Some(FULL_BLOCKS - 1 + records * blocks(1));
    }

    /// Appends one record with `plain` in it, [`PLAIN_BYTES`] at most.
    pub(super) fn seal(&mut self, kind: ContentType, plain: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
        let start = self.begin(out);
        out.extend_from_slice(plain);
        self.end(kind, out, start)
    }

    /// Begins a record at the end of `out`; says where its plaintext is to be put.
    pub(super) fn begin(&self, out: &mut Vec<u8>) -> usize {
        let start = out.len() + HEAD_BYTES + self.explicit_bytes();
        out.resize(start, 0);
        start
    }

    /// Protects the record whose plaintext is `out[start..]`, [`PLAIN_BYTES`] at most.
    pub(super) fn end(&mut self, kind: ContentType, out: &mut Vec<u8>, start: usize) -> Result<(), Fault> {
        let (explicit_bytes, plain_bytes) = (self.explicit_bytes(), out.len() - start);
        let Key { key, iv, form, seq } = &mut self.key;
        let nonce = nonce_of(iv, *seq);
        let outer_kind = if *form == Form::V1_3 { ContentType::ApplicationData } else { kind };
        if *form == Form::V1_3 {
            out.push(u8::from(kind));
        }
        if let Some(left) = &mut self.left_blocks {
            *left = left.saturating_sub(blocks(out.len() - start));
        }
        let head = head(outer_kind, explicit_bytes + out.len() - start + TAG_BYTES);
        let (before, body) = out.split_at_mut(start);
        let (head_at, explicit_at) = before[start - explicit_bytes - HEAD_BYTES..].split_at_mut(HEAD_BYTES);
        head_at.copy_from_slice(&head);
        explicit_at.copy_from_slice(&nonce[NONCE_BYTES - explicit_bytes..]);
        let aad = aad_of(*form, *seq, &head, plain_bytes);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = key
            .seal_in_place_separate_tag(nonce, Aad::from(aad.as_ref()), body)
            .map_err(|_| Fault::Crypto)?;
        out.extend_from_slice(tag.as_ref());
        *seq = seq.checked_add(1).ok_or(Fault::Exhausted)?;
        Ok(())
    }

    fn explicit_bytes(&self) -> usize {
        if self.key.form == Form::V1_2Gcm { EXPLICIT_BYTES } else { 0 }
    }
}

impl Opener {
    pub(super) fn new(
        suite: SupportedCipherSuite,
        (seq, secrets): (u64, ConnectionTrafficSecrets),
    ) -> Result<Self, Fault> {
        Ok(Self { key: Key::new(suite, seq, secrets)? })
    }

    /// Length of the rest of a record, from its head.
    pub(super) fn body_bytes(&self, head: &Head) -> Result<usize, Fault> {
        let length = usize::from(u16::from_be_bytes([head[3], head[4]]));
        let (expansion, is_allowed) = match self.key.form {
            Form::V1_3 => (EXPANSION_V1_3, head[0] == u8::from(ContentType::ApplicationData)),
            Form::V1_2Gcm | Form::V1_2ChaCha => (EXPANSION_V1_2, true),
        };
        if !is_allowed || head[1..3] != LEGACY_VERSION {
            return Err(Fault::peer(AlertDescription::UnexpectedMessage, "a record that is not protected"));
        }
        if length > PLAIN_BYTES + expansion {
            return Err(Fault::peer(AlertDescription::RecordOverflow, "a record that is too long"));
        }
        Ok(length)
    }

    /// Opens the record whose body is `out[start..]`; only its plaintext is left there.
    pub(super) fn open(
        &mut self,
        head: &Head,
        out: &mut Vec<u8>,
        start: usize,
    ) -> Result<ContentType, Fault> {
        let Key { key, iv, form, seq } = &mut self.key;
        let mut nonce = nonce_of(iv, *seq);
        if *form == Form::V1_2Gcm {
            let explicit = out.get(start..start + EXPLICIT_BYTES).ok_or_else(Fault::bad_record)?;
            nonce[NONCE_BYTES - EXPLICIT_BYTES..].copy_from_slice(explicit);
            out.drain(start..start + EXPLICIT_BYTES);
        }
        let plain_bytes = (out.len() - start).checked_sub(TAG_BYTES).ok_or_else(Fault::bad_record)?;
        let aad = aad_of(*form, *seq, head, plain_bytes);
        let nonce = Nonce::assume_unique_for_key(nonce);
        key.open_in_place(nonce, Aad::from(aad.as_ref()), &mut out[start..])
            .map_err(|_| Fault::bad_record())?;
        out.truncate(start + plain_bytes);
        // With its padding and its type (RFC 8446, 5.4).
        let most = if *form == Form::V1_3 { PLAIN_BYTES + 1 } else { PLAIN_BYTES };
        if plain_bytes > most {
            return Err(Fault::peer(AlertDescription::RecordOverflow, "a record with too much in it"));
        }
        *seq = seq.checked_add(1).ok_or(Fault::Exhausted)?;
        match form {
            Form::V1_3 => take_inner_kind(out, start),
            Form::V1_2Gcm | Form::V1_2ChaCha => Ok(ContentType::from(head[0])),
        }
    }
}

impl Key {
    fn new(suite: SupportedCipherSuite, seq: u64, secrets: ConnectionTrafficSecrets) -> Result<Self, Fault> {
        let is_v1_3 = suite.version().version == ProtocolVersion::TLSv1_3;
        let gcm = if is_v1_3 { Form::V1_3 } else { Form::V1_2Gcm };
        let chacha = if is_v1_3 { Form::V1_3 } else { Form::V1_2ChaCha };
        let (algorithm, form, key, iv): (&Algorithm, _, _, _) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, gcm, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, gcm, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, chacha, key, iv),
            _ => return Err(Fault::Crypto),
        };
        let iv = iv.as_ref().try_into().map_err(|_| Fault::Crypto)?;
        let key = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| Fault::Crypto)?;
        Ok(Self { key: LessSafeKey::new(key), iv, form, seq })
    }
}

/// Blocks that a record with so many bytes takes.
const fn blocks(plain_bytes: usize) -> u64 {
    plain_bytes.div_ceil(16) as u64 + 1
}

fn nonce_of(iv: &[u8; NONCE_BYTES], seq: u64) -> [u8; NONCE_BYTES] {
    let mut nonce = *iv;
    for (byte, other) in nonce[NONCE_BYTES - EXPLICIT_BYTES..].iter_mut().zip(seq.to_be_bytes()) {
        *byte ^= other;
    }
    nonce
}

fn head(kind: ContentType, length: usize) -> Head {
    let [high, low] =
        u16::try_from(length).expect("a record is at most 16 KiB and its overhead").to_be_bytes();
    [u8::from(kind), LEGACY_VERSION[0], LEGACY_VERSION[1], high, low]
}

/// Additional data: 5 bytes in TLS 1.3, 13 in TLS 1.2.
struct AadBytes([u8; 13], usize);

impl AsRef<[u8]> for AadBytes {
    fn as_ref(&self) -> &[u8] {
        &self.0[..self.1]
    }
}

fn aad_of(form: Form, seq: u64, head: &Head, plain_bytes: usize) -> AadBytes {
    let mut aad = [0; 13];
    if form == Form::V1_3 {
        aad[..HEAD_BYTES].copy_from_slice(head);
        return AadBytes(aad, HEAD_BYTES);
    }
    aad[..8].copy_from_slice(&seq.to_be_bytes());
    aad[8..11].copy_from_slice(&head[..3]);
    let length = u16::try_from(plain_bytes).expect("a record's length has two bytes");
    aad[11..].copy_from_slice(&length.to_be_bytes());
    AadBytes(aad, 13)
}

/// Takes the type off the end, and the zeros behind it (RFC 8446, 5.4).
fn take_inner_kind(out: &mut Vec<u8>, start: usize) -> Result<ContentType, Fault> {
    let Some(last) = out[start..].iter().rposition(|byte| *byte != 0) else {
        return Err(Fault::peer(AlertDescription::UnexpectedMessage, "a record without a type"));
    };
    let kind = ContentType::from(out[start + last]);
    out.truncate(start + last);
    Ok(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_worn_by_blocks_and_not_by_records() {
        assert_eq!([0, 1, 16, 17, PLAIN_BYTES].map(blocks), [1, 2, 2, 3, FULL_BLOCKS]);
        // 256 GiB in full records; sixteen million small ones leave nearly all of it.
        let most = (1u64 << 24) * FULL_BLOCKS;
        assert_eq!(most / FULL_BLOCKS * PLAIN_BYTES as u64, 256 << 30);
        assert!(most / blocks(100) > 2_000_000_000);
    }
}
