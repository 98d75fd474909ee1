//! A column in pages. A copy shares them all; a page is copied when it is written.

use std::ops::{Index, IndexMut};
use std::sync::Arc;

const PAGE: usize = 256;

/// A column: one value per slot.
#[derive(Clone, Debug, Default)]
pub(super) struct Pages<T> {
    pages: Vec<Arc<[T; PAGE]>>,
}

impl<T: Copy + Default> Pages<T> {
    /// At least `len` slots; the new ones hold the default.
    pub(super) fn grow(&mut self, len: usize) {
        while self.pages.len() * PAGE < len {
            self.pages.push(Arc::new([T::default(); PAGE]));
        }
    }
}

impl<T> Index<usize> for Pages<T> {
    type Output = T;

    fn index(&self, slot: usize) -> &T {
        &self.pages[slot / PAGE][slot % PAGE]
    }
}

impl<T: Clone> IndexMut<usize> for Pages<T> {
    fn index_mut(&mut self, slot: usize) -> &mut T {
        &mut Arc::make_mut(&mut self.pages[slot / PAGE])[slot % PAGE]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_keeps_what_it_saw() {
        let mut column: Pages<u32> = Pages::default();
        column.grow(300);
        column[299] = 1;
        let copy = column.clone();
        column[299] = 2;
        assert_eq!((copy[299], column[299], column[0]), (1, 2, 0));
        assert!(Arc::ptr_eq(&copy.pages[0], &column.pages[0]), "the first page was not written");
    }
}
