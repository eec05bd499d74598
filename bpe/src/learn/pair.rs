//! Two adjacent tokens, packed into one number, so that pairs compare as their ids do, the first before the second.

pub(super) type Pair = u64;

#[inline]
pub(super) fn pack(first: u32, second: u32) -> Pair {
    u64::from(first) << 32 | u64::from(second)
}

#[inline]
pub(super) fn unpack(pair: Pair) -> (u32, u32) {
    ((pair >> 32) as u32, pair as u32)
}
