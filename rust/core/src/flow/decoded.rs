//! Keys whose patterns' state is decoded, in order of their coming.

use std::sync::Arc;

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64;

use crate::cep::keyed::Keyed;
use crate::datum::Datum;

/// A key and what it has.
pub struct Live {
    pub key: Arc<[u8]>,
    pub datum: Datum,
    pub keyed: Keyed<Datum>,
    /// Since it was stored.
    pub changed: bool,
}

impl Live {
    pub fn new(key: &[u8], keyed: Keyed<Datum>) -> Self {
        let datum = Datum::from_key_bytes(key).unwrap_or_default();
        Live { key: Arc::from(key), datum, keyed, changed: false }
    }
}

#[derive(Default)]
pub struct Decoded {
    all: Vec<Live>,
    places: HashTable<u32>,
}

impl Decoded {
    /// A key's place, which it has until others are forgotten.
    pub fn find(&self, key: &[u8]) -> Option<usize> {
        let found = self.places.find(xxh3_64(key), |place| *self.all[*place as usize].key == *key);
        found.map(|place| *place as usize)
    }

    /// Of a key that is not there.
    pub fn insert(&mut self, live: Live) -> usize {
        let place = self.all.len();
        self.all.push(live);
        self.place(place);
        place
    }

    fn place(&mut self, place: usize) {
        let all = &self.all;
        let hash = |place: &u32| xxh3_64(&all[*place as usize].key);
        self.places.insert_unique(hash(&(place as u32)), place as u32, hash);
    }

    pub fn at(&self, place: usize) -> &Live {
        &self.all[place]
    }

    pub fn at_mut(&mut self, place: usize) -> &mut Live {
        &mut self.all[place]
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Live> {
        self.all.iter_mut()
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub fn retain(&mut self, kept: impl FnMut(&Live) -> bool) {
        let before = self.all.len();
        self.all.retain(kept);
        if self.all.len() < before {
            self.places.clear();
            (0..self.all.len()).for_each(|place| self.place(place));
        }
    }
}
