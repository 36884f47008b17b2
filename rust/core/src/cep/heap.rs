//! Java's `PriorityQueue`, to the position in its array: runs are walked, and matches told, in the order of that array, so which
//! of two with one start comes first is decided here.

#[derive(Clone, Debug)]
pub struct Heap<T> {
    items: Vec<T>,
}

impl<T> Default for Heap<T> {
    fn default() -> Self {
        Heap { items: vec![] }
    }
}

/// What a queue is ordered by.
pub trait Ranked {
    type Rank: Ord;
    fn rank(&self) -> Self::Rank;
}

impl<T: Ranked> Heap<T> {
    pub fn from_array(items: Vec<T>) -> Self {
        Heap { items }
    }

    pub fn with_capacity(items: usize) -> Self {
        Heap { items: Vec::with_capacity(items) }
    }

    /// In the order of the array.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.items.iter()
    }

    pub fn into_array(self) -> Vec<T> {
        self.items
    }

    pub fn len(&self) -> usize {
        self.items.len()
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub fn peek(&self) -> Option<&T> {
        self.items.first()
    }

    pub fn offer(&mut self, item: T) {
        self.items.push(item);
        let mut at = self.items.len() - 1;
        while at > 0 {
            let parent = (at - 1) / 2;
            if self.items[at].rank() >= self.items[parent].rank() {
                break;
            }
            self.items.swap(at, parent);
            at = parent;
        }
    }

    pub fn offer_all(&mut self, items: impl IntoIterator<Item = T>) {
        items.into_iter().for_each(|item| self.offer(item));
    }

    pub fn poll(&mut self) -> Option<T> {
        let last = self.items.pop()?;
        if self.items.is_empty() {
            return Some(last);
        }
        let first = std::mem::replace(&mut self.items[0], last);
        self.sift_down(0);
        Some(first)
    }

    /// Removes those that are chosen, and puts the rest in order again if there was one.
    pub fn remove_all(&mut self, mut chosen: impl FnMut(&T) -> bool) {
        let before = self.items.len();
        self.items.retain(|item| !chosen(item));
        if self.items.len() < before {
            for at in (0..self.items.len() / 2).rev() {
                self.sift_down(at);
            }
        }
    }

    fn sift_down(&mut self, mut at: usize) {
        let n = self.items.len();
        while at < n / 2 {
            let mut child = 2 * at + 1;
            if child + 1 < n && self.items[child].rank() > self.items[child + 1].rank() {
                child += 1;
            }
            if self.items[at].rank() <= self.items[child].rank() {
                break;
            }
            self.items.swap(at, child);
            at = child;
        }
    }
}
