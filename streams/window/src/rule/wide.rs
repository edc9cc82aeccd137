//! Unsigned numbers of 256 bits, as far as exact comparisons of squares need them.

/// A number in four limbs, the lowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wide([u64; 4]);

impl Wide {
    /// The product of two numbers; exact.
    pub fn product(a: u128, b: u128) -> Wide {
        Wide([a as u64, (a >> 64) as u64, 0, 0]).times(b)
    }

    /// This times a number; what goes beyond 256 bits is a mistake of the caller's, who knows the ranges.
    pub fn times(self, by: u128) -> Wide {
        let by = [by as u64, (by >> 64) as u64];
        let mut product = [0u64; 4];
        for (i, limb) in self.0.iter().enumerate() {
            let mut carry = 0u128;
            for (j, other) in by.iter().chain(&[0, 0]).enumerate().take(4 - i) {
                let sum = u128::from(*limb) * u128::from(*other) + u128::from(product[i + j]) + carry;
                product[i + j] = sum as u64;
                carry = sum >> 64;
            }
            debug_assert_eq!(carry, 0, "beyond 256 bits");
        }
        Wide(product)
    }

    /// This less a number that is not greater.
    pub fn minus(self, other: Wide) -> Wide {
        let mut difference = [0u64; 4];
        let mut borrow = false;
        for (i, limb) in difference.iter_mut().enumerate() {
            let (less, first) = self.0[i].overflowing_sub(other.0[i]);
            let (less, second) = less.overflowing_sub(u64::from(borrow));
            (*limb, borrow) = (less, first || second);
        }
        debug_assert!(!borrow, "below zero");
        Wide(difference)
    }

    /// The nearest double, about.
    pub fn to_f64(self) -> f64 {
        self.0.iter().rev().fold(0.0, |sum, limb| sum * 18_446_744_073_709_551_616.0 + *limb as f64)
    }

    /// Whether it is zero.
    pub fn is_zero(self) -> bool {
        self.0 == [0; 4]
    }
}

impl PartialOrd for Wide {
    fn partial_cmp(&self, other: &Wide) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Wide {
    fn cmp(&self, other: &Wide) -> std::cmp::Ordering {
        self.0.iter().rev().cmp(other.0.iter().rev())
    }
}

#[cfg(test)]
mod tests {
    use super::Wide;

    #[test]
    fn products_carry_and_compare() {
        let max = Wide::product(u128::MAX, u128::MAX);
        assert_eq!(max, Wide([1, 0, u64::MAX - 1, u64::MAX]));
        assert_eq!(max.minus(max), Wide::product(0, 9));
        assert!(Wide::product(1 << 100, 1 << 100) > Wide::product(u128::MAX, 1 << 71));
        assert_eq!(Wide::product(7, 5).times(3), Wide::product(105, 1));
        assert_eq!(Wide::product(1 << 90, 1 << 10).to_f64(), 2f64.powi(100));
        assert!(Wide::product(0, 1).is_zero());
    }
}
