//! The code of strings (RFC 7541, appendix B), which is canonical: its lengths tell everything.

/// How many bytes have a code of each length, which the index is, in bits.
const COUNTS: [u32; 31] =
    [0, 0, 0, 0, 0, 10, 26, 32, 6, 0, 5, 3, 2, 6, 2, 3, 0, 0, 0, 3, 8, 13, 26, 29, 12, 4, 15, 19, 29, 0, 3];

/// Every byte, by the length of its code and then by its value.
#[rustfmt::skip]
const BYTES: [u8; 256] = [
    48, 49, 50, 97, 99, 101, 105, 111, 115, 116, 32, 37, 45, 46, 47, 51, 52, 53, 54, 55, 56, 57, 61, 65,
    95, 98, 100, 102, 103, 104, 108, 109, 110, 112, 114, 117, 58, 66, 67, 68, 69, 70, 71, 72, 73, 74, 75, 76,
    77, 78, 79, 80, 81, 82, 83, 84, 85, 86, 87, 89, 106, 107, 113, 118, 119, 120, 121, 122, 38, 42, 44, 59,
    88, 90, 33, 34, 40, 41, 63, 39, 43, 124, 35, 62, 0, 36, 64, 91, 93, 126, 94, 125, 60, 96, 123, 92,
    195, 208, 128, 130, 131, 162, 184, 194, 224, 226, 153, 161, 167, 172, 176, 177, 179, 209, 216, 217, 227, 229, 230, 129,
    132, 133, 134, 136, 146, 154, 156, 160, 163, 164, 169, 170, 173, 178, 181, 185, 186, 187, 189, 190, 196, 198, 228, 232,
    233, 1, 135, 137, 138, 139, 140, 141, 143, 147, 149, 150, 151, 152, 155, 157, 158, 165, 166, 168, 174, 175, 180, 182,
    183, 188, 191, 197, 231, 239, 9, 142, 144, 145, 148, 159, 171, 206, 215, 225, 236, 237, 199, 207, 234, 235, 192, 193,
    200, 201, 202, 205, 210, 213, 218, 219, 238, 240, 242, 243, 255, 203, 204, 211, 212, 214, 221, 222, 223, 241, 244, 245,
    246, 247, 248, 250, 251, 252, 253, 254, 2, 3, 4, 5, 6, 7, 8, 11, 12, 14, 15, 16, 17, 18, 19, 20,
    21, 23, 24, 25, 26, 27, 28, 29, 30, 31, 127, 220, 249, 10, 13, 22,
];

/// Bits that one look takes: enough for all codes but those of 176 bytes that heads hardly have.
const LOOK_BITS: u32 = 8;
const LONGEST_BITS: usize = 30;

/// Code of every byte: its bits, from the highest of 32 on, and how many they are.
static CODES: [(u32, u8); 256] = codes();

/// By the first bits of a code: the byte, and the length of the code, 0 if it is longer than a look.
static LOOKS: [(u8, u8); 1 << LOOK_BITS] = looks();

/// By a length: what codes of up to this length are below, and the place of the byte with the last of them.
static LIMITS: [(u32, usize); LONGEST_BITS + 1] = limits();

/// Decodes a string to the end of `out`; none if it is none: with EOS inside, or another end than less than a byte of ones.
pub(in super::super) fn decode(mut coded: &[u8], out: &mut Vec<u8>) -> Option<()> {
    // The shortest code has 5 bits.
    out.reserve(coded.len() * 8 / 5);
    // Bits that wait, from the highest on; zeros follow.
    let (mut window, mut window_bits) = (0u64, 0u32);
    loop {
        if window_bits < 32 {
            // With so many bits there is a whole code.
            let Some((next, rest)) = coded.split_first_chunk() else { break };
            window |= u64::from(u32::from_be_bytes(*next)) << (32 - window_bits);
            window_bits += 32;
            coded = rest;
        }
        let (byte, len) = first(window)?;
        out.push(byte);
        window <<= len;
        window_bits -= len;
    }
    for byte in coded {
        window |= u64::from(*byte) << (56 - window_bits);
        window_bits += 8;
    }
    loop {
        let (byte, len) = first(window)?;
        if len > window_bits {
            let is_padding = window_bits < 8 && window == !(u64::MAX >> window_bits);
            return is_padding.then_some(());
        }
        out.push(byte);
        window <<= len;
        window_bits -= len;
    }
}

/// How long a string is when it is coded.
pub(super) fn coded_bytes(bytes: &[u8]) -> usize {
    let bits: usize = bytes.iter().map(|byte| usize::from(CODES[usize::from(*byte)].1)).sum();
    bits.div_ceil(8)
}

/// Codes a string.
pub(super) fn encode(bytes: &[u8], out: &mut Vec<u8>) {
    let mut window = 0u64;
    let mut window_bits = 0u32;
    for byte in bytes {
        let (code, len) = CODES[usize::from(*byte)];
        window |= u64::from(code) << 32 >> window_bits;
        window_bits += u32::from(len);
        if window_bits >= 32 {
            out.extend_from_slice(&window.to_be_bytes()[..4]);
            window <<= 32;
            window_bits -= 32;
        }
    }
    window |= u64::MAX >> window_bits;
    out.extend(window.to_be_bytes().iter().take(usize::try_from(window_bits.div_ceil(8)).unwrap_or(0)));
}

/// The first byte that waits, and the length of its code; none for EOS, which lies above all others.
#[inline]
fn first(window: u64) -> Option<(u8, u32)> {
    let [look, ..] = window.to_be_bytes();
    let (byte, len) = LOOKS[usize::from(look)];
    if len != 0 {
        return Some((byte, u32::from(len)));
    }
    first_long(window)
}

#[cold]
fn first_long(window: u64) -> Option<(u8, u32)> {
    let code = u32::try_from(window >> 32).unwrap_or(u32::MAX);
    let (len, (limit, last)) = (0..).zip(&LIMITS).find(|(_, (limit, _))| code < *limit)?;
    let before_last = usize::try_from((limit - 1 - code) >> (32 - len)).ok()?;
    let byte = BYTES.get(last.checked_sub(before_last)?)?;
    Some((*byte, len))
}

const fn codes() -> [(u32, u8); 256] {
    let mut codes = [(0, 0); 256];
    let (mut place, mut code, mut len) = (0, 0u32, 1u8);
    while place < BYTES.len() {
        let mut left = COUNTS[len as usize];
        while left > 0 {
            codes[BYTES[place] as usize] = (code << (32 - len), len);
            place += 1;
            code += 1;
            left -= 1;
        }
        code <<= 1;
        len += 1;
    }
    codes
}

const fn looks() -> [(u8, u8); 1 << LOOK_BITS] {
    let mut looks = [(0, 0); 1 << LOOK_BITS];
    let mut place = 0;
    while place < BYTES.len() {
        let byte = BYTES[place];
        let (code, len) = CODES[byte as usize];
        let mut look = (code >> (32 - LOOK_BITS)) as usize;
        let end = look + (1 << LOOK_BITS >> len);
        while len as u32 <= LOOK_BITS && look < end {
            looks[look] = (byte, len);
            look += 1;
        }
        place += 1;
    }
    looks
}

const fn limits() -> [(u32, usize); LONGEST_BITS + 1] {
    let mut limits = [(0, 0); LONGEST_BITS + 1];
    let mut place = 0;
    while place < BYTES.len() {
        let (code, len) = CODES[BYTES[place] as usize];
        let mut longest = len as usize;
        while longest <= LONGEST_BITS {
            limits[longest] = (code + (1 << (32 - len)), place);
            longest += 1;
        }
        place += 1;
    }
    limits
}
