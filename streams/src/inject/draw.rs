//! Random numbers that depend on what they are for, not on what was drawn before.

/// Draws for one message of one device: SplitMix64.
#[derive(Clone, Debug)]
pub(super) struct Draw(u64);

impl Draw {
    pub fn new(seed: u64, device: u32, number: u32) -> Draw {
        let place = u64::from(device) << 32 | u64::from(number);
        let mut draw = Draw(seed ^ place.wrapping_mul(0xd1b5_4a32_d192_ed03));
        // The seed and the place are mixed before the first number leaves.
        draw.0 = draw.next() ^ seed.rotate_left(32);
        draw
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 when that is 0. The bias is far below what a simulation shows.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}
