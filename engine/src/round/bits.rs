//! A set of host slots, one bit each.

/// A set of slots below a fixed number.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Bits {
    words: Vec<u64>,
    len: usize,
}

impl Bits {
    pub(super) fn empty(len: usize) -> Bits {
        Bits { words: vec![0; len.div_ceil(64)], len }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn grow(&mut self, len: usize) {
        self.len = self.len.max(len);
        self.words.resize(self.len.div_ceil(64), 0);
    }

    pub(super) fn set(&mut self, at: usize, on: bool) {
        if at >= self.len {
            return;
        }
        let (word, bit) = (&mut self.words[at / 64], 1 << (at % 64));
        if on { *word |= bit } else { *word &= !bit }
    }

    pub(super) fn has(&self, at: usize) -> bool {
        self.words.get(at / 64).is_some_and(|word| word >> (at % 64) & 1 == 1)
    }

    /// How many slots are in it.
    pub(super) fn count(&self) -> u32 {
        self.words.iter().map(|word| word.count_ones()).sum()
    }

    /// The slots in it, in order.
    pub(super) fn slots(&self) -> impl Iterator<Item = usize> + '_ {
        self.words.iter().enumerate().flat_map(|(at, &word)| {
            std::iter::successors(Some(word), |word| Some(word & word.wrapping_sub(1)))
                .take_while(|word| *word != 0)
                .map(move |word| at * 64 + word.trailing_zeros() as usize)
        })
    }

    pub(super) fn intersect(&mut self, other: &Bits) {
        let both = self.words.len().min(other.words.len());
        self.words.iter_mut().zip(&other.words).for_each(|(word, other)| *word &= other);
        self.words[both..].fill(0);
    }

    pub(super) fn subtract(&mut self, other: &Bits) {
        self.words.iter_mut().zip(&other.words).for_each(|(word, other)| *word &= !other);
    }

    /// Adds what of the other is below this one's fixed number.
    pub(super) fn unite(&mut self, other: &Bits) {
        self.words.iter_mut().zip(&other.words).for_each(|(word, other)| *word |= other);
        if let Some(last) = self.words.last_mut().filter(|_| !self.len.is_multiple_of(64)) {
            *last &= (1 << (self.len % 64)) - 1;
        }
    }

    /// Adds a slot, growing where it must.
    pub(super) fn include(&mut self, at: usize) {
        if at >= self.len {
            self.grow(at + 1);
        }
        self.set(at, true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_do_what_sets_do() {
        let of = |slots: &[usize]| {
            let mut bits = Bits::empty(130);
            slots.iter().for_each(|&slot| bits.set(slot, true));
            bits
        };
        let mut a = of(&[0, 63, 64, 129]);
        a.intersect(&of(&[63, 129]));
        assert_eq!(a, of(&[63, 129]));
        a.subtract(&of(&[63]));
        assert!(a.has(129) && !a.has(63) && !a.has(64));
        assert!(a.count() == 1 && a.slots().eq([129]));
        assert!(of(&[0, 63, 64, 129]).slots().eq([0, 63, 64, 129]));
        a.unite(&of(&[5, 128]));
        assert!(a.slots().eq([5, 128, 129]));
        let mut short = Bits::empty(10);
        short.unite(&of(&[5, 12, 129]));
        assert!(short.slots().eq([5]));
        a.intersect(&short);
        assert!(a.slots().eq([5]));
        a.include(129);
        a.grow(500);
        assert!(a.len() == 500 && a.has(129) && !a.has(499));
    }
}
