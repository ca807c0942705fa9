//! Things by small numbers that are given out anew once they are free.

/// What is at each number. A number is free, reserved, or has something.
#[derive(Debug, Clone)]
pub(crate) struct Places<T> {
    all: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Places<T> {
    fn default() -> Self {
        Places { all: Vec::new(), free: Vec::new() }
    }
}

impl<T> Places<T> {
    /// A number that nothing has.
    pub(crate) fn reserve(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.grow(self.all.len() + 1);
            // There are fewer than 4 billion of anything.
            u32::try_from(self.all.len() - 1).unwrap_or(u32::MAX)
        })
    }

    /// Takes what is there away, and gives the number back.
    pub(crate) fn release(&mut self, at: u32) -> Option<T> {
        self.free.push(at);
        self.take(at)
    }

    /// Takes what is there away; the number stays reserved.
    pub(crate) fn take(&mut self, at: u32) -> Option<T> {
        self.all.get_mut(index(at)).and_then(Option::take)
    }

    /// Puts something there.
    pub(crate) fn put(&mut self, at: u32, what: T) {
        if let Some(place) = self.place(at) {
            *place = Some(what);
        }
    }

    pub(crate) fn get(&self, at: u32) -> Option<&T> {
        self.all.get(index(at)).and_then(Option::as_ref)
    }

    pub(crate) fn get_mut(&mut self, at: u32) -> Option<&mut T> {
        self.all.get_mut(index(at)).and_then(Option::as_mut)
    }

    /// Everything there is, with its number.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        (0..).zip(&self.all).filter_map(|(at, what)| Some((at, what.as_ref()?)))
    }

    fn place(&mut self, at: u32) -> Option<&mut Option<T>> {
        self.grow(index(at).saturating_add(1));
        self.all.get_mut(index(at))
    }

    /// By an eighth, not twofold: there are many, and room that nothing has is memory.
    fn grow(&mut self, needed: usize) {
        let more = needed.saturating_sub(self.all.len());
        if needed > self.all.capacity() {
            self.all.reserve_exact(more.max(self.all.len() / 8).max(8));
        }
        if more > 0 {
            self.all.resize_with(needed, || None);
        }
    }
}

impl<T: Default> Places<T> {
    /// What is there, or nothing of its kind put there.
    pub(crate) fn or_default(&mut self, at: u32) -> Option<&mut T> {
        self.place(at).map(|place| place.get_or_insert_default())
    }
}

fn index(at: u32) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_given_out_anew_once_they_are_free() {
        let mut places = Places::default();
        let numbers: Vec<u32> = (0..1000).map(|_| places.reserve()).collect();
        assert_eq!(numbers, (0..1000).collect::<Vec<_>>());
        numbers.iter().for_each(|at| places.put(*at, *at));
        assert!(places.all.capacity() <= 1000 + 1000 / 8 + 8, "{}", places.all.capacity());
        assert_eq!(places.release(7), Some(7));
        assert_eq!(places.get(7), None);
        assert_eq!(places.reserve(), 7);
        // Beyond the end.
        *places.or_default(5000).unwrap() += 1;
        assert_eq!((places.get(5000), places.get(4999)), (Some(&1), None));
        assert_eq!(places.iter().count(), 1000);
    }
}
