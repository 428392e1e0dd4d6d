//! What is found by a type and a name, such as a topic.

use std::any::{Any, TypeId};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;

/// Things by their type and name, made when they are first looked for. Those that nobody holds and
/// that are idle are thrown out from time to time, so that names may come and go.
#[derive(Default)]
pub(crate) struct Shelf {
    things: DashMap<(TypeId, Box<str>), Arc<dyn Shelved>>,
    /// The number of things at which idle ones are thrown out.
    crowded: AtomicUsize,
}

/// Something on a [`Shelf`].
pub(crate) trait Shelved: Any + Send + Sync {
    /// Whether another one could take its place, once nobody holds it.
    fn is_idle(&self) -> bool;

    /// The system has ended.
    fn end(&self);
}

impl Shelf {
    /// The thing of a type with a name.
    pub(crate) fn get<T: Shelved>(&self, name: &str, make: impl FnOnce() -> T) -> Arc<T> {
        let thing: Arc<dyn Shelved> = Arc::clone(
            &self
                .things
                .entry((TypeId::of::<T>(), name.into()))
                .or_insert_with(|| Arc::new(make())),
        );
        self.tidy();
        let thing: Arc<dyn Any + Send + Sync> = thing;
        thing.downcast().expect("a thing stands under its own type")
    }

    fn tidy(&self) {
        const FEW: usize = 64;
        if self.things.len() <= self.crowded.load(Ordering::Relaxed).max(FEW) {
            return;
        }
        // Nobody can get hold of one while its part of the map is locked.
        self.things
            .retain(|_, thing| Arc::strong_count(thing) > 1 || !thing.is_idle());
        self.crowded.store(self.things.len() * 2, Ordering::Relaxed);
    }

    pub(crate) fn end(&self) {
        let things: Vec<Arc<dyn Shelved>> = self
            .things
            .iter()
            .map(|entry| Arc::clone(entry.value()))
            .collect();
        for thing in things {
            thing.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Thing {
        is_idle: bool,
    }

    impl Shelved for Thing {
        fn is_idle(&self) -> bool {
            self.is_idle
        }

        fn end(&self) {}
    }

    #[test]
    fn a_thing_is_found_for_as_long_as_it_is_held_or_not_idle() {
        let shelf = Shelf::default();
        let held = shelf.get("held", || Thing { is_idle: true });
        drop(shelf.get("busy", || Thing { is_idle: false }));
        for number in 0..1000 {
            shelf.get(&number.to_string(), || Thing { is_idle: true });
        }
        assert!(shelf.things.len() <= 130, "{} are left", shelf.things.len());
        let again = shelf.get("held", || Thing { is_idle: false });
        assert!(Arc::ptr_eq(&held, &again));
        assert!(!shelf.get("busy", || Thing { is_idle: true }).is_idle);
    }
}
