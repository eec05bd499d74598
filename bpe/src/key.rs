//! Words of up to 15 bytes as 128-bit numbers: equal if the words are equal, compared and hashed at once.
//!
//! Does not cover how long words are told apart: they have a hash, and whoever keeps them compares.

/// The longest word that fits into a key.
pub const INLINE: usize = 15;
/// In place of the length: a key that holds no word but a hash and whatever its owner needs to find the word.
pub const LONG: u64 = 0xFF;
// Odd constants with no structure (the golden ratio and the square root of 2, in 64 bits).
const SALT: [u64; 2] = [0x9E37_79B9_7F4A_7C15, 0x6A09_E667_F3BC_C909];

/// The bytes of a word, little-endian, and in the top byte its length.
pub type Key = [u64; 2];

/// The bytes of `word` in 15 of 16 bytes. Overlapping reads stand for a copy of unknown length, which would be a call.
#[inline]
pub fn pack(word: &[u8]) -> Key {
    let n = word.len();
    let four = |at: usize| u64::from(u32::from_le_bytes([word[at], word[at + 1], word[at + 2], word[at + 3]]));
    let (low, high) = if n > 8 {
        (four(0) | four(4) << 32, (four(n - 8) | four(n - 4) << 32) >> (8 * (16 - n)))
    } else if n >= 4 {
        (four(0) | four(n - 4) << (8 * (n - 4)), 0)
    } else {
        let one = |at: usize| u64::from(word[at]) << (8 * at);
        (one(0) | one(n / 2) | one(n - 1), 0)
    };
    [low, high | (n as u64) << 56]
}

const KEPT: [[u64; 3]; 16] = {
    let mut kept = [[0; 3]; 16];
    let mut n = 0;
    while n < 16 {
        let bits = (1_u128 << (8 * n)) - 1;
        kept[n] = [bits as u64, (bits >> 64) as u64, (n as u64) << 56];
        n += 1;
    }
    kept
};

/// `pack(&text[start..end])` of at most `INLINE` bytes, by one load and no branch on the length where it can.
#[inline]
pub fn pack_at(text: &[u8], start: usize, end: usize) -> Key {
    let n = end - start;
    match text.get(start..start + 16) {
        Some(bytes) => {
            let bytes: [u8; 16] = bytes.try_into().expect("16 bytes");
            let all = u128::from_le_bytes(bytes);
            let [low, high, length] = KEPT[n & 15];
            [all as u64 & low, (all >> 64) as u64 & high | length]
        }
        None => pack(&text[start..end]),
    }
}

/// Folded multiplication: both halves of the 128-bit product of the salted halves.
#[inline]
pub fn spread(key: Key) -> u64 {
    let product = u128::from(key[0] ^ SALT[0]) * u128::from(key[1] ^ SALT[1]);
    (product >> 64) as u64 ^ product as u64
}

/// A hash of a word of any length.
pub fn hash_long(word: &[u8]) -> u64 {
    let mut hash = word.len() as u64;
    for chunk in word.chunks(INLINE) {
        let [low, high] = pack(chunk);
        hash = spread([low ^ hash, high]);
    }
    hash
}
