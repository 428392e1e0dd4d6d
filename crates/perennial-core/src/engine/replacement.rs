//! Which entity leaves memory when there are more of a type than may be.
//!
//! A book of the entities that are in memory, by the index of their cells. It holds none of them: it
//! is told who comes, who is used, who has nothing to do and who leaves, and names who is to leave
//! next. Only those that have nothing to do stand in its lists, so whoever it names can go at once,
//! and nobody has to be looked for: every call takes the same few steps however many there are.
//!
//! There are three lists, each with those that became idle last in front. *Probation* and
//! *protected* are the main part: who comes stands on probation, who is used there is protected, and
//! when too many are protected, the one that was idle for longest is on probation again. The one
//! that leaves is the last on probation. With nobody protected that is the least recently used one;
//! otherwise those that came for one command pass by without pushing out those that are used again.
//!
//! With the third list, the *window*, whoever comes stands there first, and the last of it gets into
//! a full main part only if it was used more often than the one that would have to go for it. How
//! often is estimated, also of those that are not in memory, by a [`Sketch`]. This is W-TinyLFU.

use crate::config::Replacement;

/// The book of the entities of one type on one worker.
#[derive(Debug)]
pub(super) struct Residents {
    /// By the index of the cell.
    nodes: Vec<Node>,
    lists: [List; 3],
    /// How many there are in each segment, those with something to do included.
    counts: [usize; 3],
    limit: usize,
    /// How many may be in the window.
    window: usize,
    /// How many may be protected.
    protected: usize,
    sketch: Option<Sketch>,
}

/// What is known of one entity: 16 bytes.
#[derive(Debug, Clone, Copy)]
struct Node {
    /// The one that became idle after it.
    newer: u32,
    /// The one that became idle before it.
    older: u32,
    /// Of its id.
    hash: u32,
    /// `None` if nobody of this index is in memory, or it is on its way out.
    segment: Option<Segment>,
    /// Whether it has nothing to do, and so stands in the list of its segment.
    is_idle: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Segment {
    Window,
    Probation,
    Protected,
}

/// The idle ones of a segment.
#[derive(Debug, Clone, Copy)]
struct List {
    newest: u32,
    oldest: u32,
}

/// No node.
const NONE: u32 = u32::MAX;

impl List {
    const EMPTY: Self = Self {
        newest: NONE,
        oldest: NONE,
    };
}

impl Node {
    const ABSENT: Self = Self {
        newer: NONE,
        older: NONE,
        hash: 0,
        segment: None,
        is_idle: false,
    };
}

impl Residents {
    /// A book for `limit` entities, at least one. `protected_percent` of the main part, up to 99, may
    /// be protected, unless the least recently used one is to leave.
    pub(super) fn new(limit: usize, replacement: Replacement, protected_percent: u32) -> Self {
        /// One part of so many is the window.
        const WINDOW: usize = 100;
        let limit = limit.max(1);
        let (window, sketch) = match replacement {
            Replacement::Frequency => ((limit / WINDOW).max(1), Some(Sketch::new())),
            Replacement::LeastRecentlyUsed | Replacement::Segmented => (0, None),
        };
        let main = limit - window;
        let protected = match replacement {
            Replacement::LeastRecentlyUsed => 0,
            Replacement::Segmented | Replacement::Frequency => {
                let percent = u64::from(protected_percent.min(99));
                usize::try_from(main as u64 * percent / 100).unwrap_or(main)
            }
        };
        Self {
            nodes: Vec::new(),
            lists: [List::EMPTY; 3],
            counts: [0; 3],
            limit,
            window,
            protected,
            sketch,
        }
    }

    /// How many there are.
    fn len(&self) -> usize {
        self.counts.iter().sum()
    }

    /// One comes into memory, with something to do. `hash` is that of its id.
    pub(super) fn insert(&mut self, index: usize, hash: u32) {
        if self.nodes.len() <= index {
            self.nodes.resize(index + 1, Node::ABSENT);
        }
        self.remove(index);
        self.nodes[index].hash = hash;
        self.take_in(index);
    }

    fn take_in(&mut self, index: usize) {
        let segment = if self.window > 0 {
            Segment::Window
        } else {
            Segment::Probation
        };
        let node = &mut self.nodes[index];
        node.segment = Some(segment);
        node.is_idle = false;
        let hash = node.hash;
        self.counts[segment as usize] += 1;
        let len = self.len().min(self.limit);
        if let Some(sketch) = &mut self.sketch {
            sketch.fit(len);
            sketch.add(hash);
        }
    }

    /// One is used: a command has come for it. One that was on its way out stays.
    pub(super) fn used(&mut self, index: usize) {
        let Some(node) = self.nodes.get(index).copied() else {
            return;
        };
        match node.segment {
            None => self.take_in(index),
            Some(segment) => {
                if let Some(sketch) = &mut self.sketch {
                    sketch.add(node.hash);
                }
                if segment == Segment::Probation && self.protected > 0 {
                    self.busy(index);
                    self.counts[Segment::Probation as usize] -= 1;
                    self.counts[Segment::Protected as usize] += 1;
                    self.nodes[index].segment = Some(Segment::Protected);
                    self.end_protection();
                }
            }
        }
    }

    /// One has something to do, so it cannot leave.
    pub(super) fn busy(&mut self, index: usize) {
        let Some(node) = self.nodes.get_mut(index) else {
            return;
        };
        if let Some(segment) = node.segment
            && std::mem::take(&mut node.is_idle)
        {
            let Node { newer, older, .. } = *node;
            let list = &mut self.lists[segment as usize];
            match self.nodes.get_mut(newer as usize) {
                Some(node) => node.older = older,
                None => list.newest = older,
            }
            match self.nodes.get_mut(older as usize) {
                Some(node) => node.newer = newer,
                None => list.oldest = newer,
            }
        }
    }

    /// One has nothing to do any more, so it can leave.
    pub(super) fn idle(&mut self, index: usize) {
        let Some(node) = self.nodes.get(index).copied() else {
            return;
        };
        if let Some(segment) = node.segment
            && !node.is_idle
        {
            self.enlist(index, segment);
            self.end_protection();
            self.let_in();
        }
    }

    /// Puts an idle one in front of a list.
    fn enlist(&mut self, index: usize, segment: Segment) {
        let Ok(name) = u32::try_from(index) else {
            return;
        };
        let list = &mut self.lists[segment as usize];
        let older = std::mem::replace(&mut list.newest, name);
        match self.nodes.get_mut(older as usize) {
            Some(node) => node.newer = name,
            None => list.oldest = name,
        }
        let node = &mut self.nodes[index];
        node.newer = NONE;
        node.older = older;
        node.is_idle = true;
    }

    /// The one of a segment that has been idle for longest.
    fn oldest(&self, segment: Segment) -> Option<usize> {
        let oldest = self.lists[segment as usize].oldest;
        (oldest != NONE).then_some(oldest as usize)
    }

    /// Moves an idle one in front of another segment's list.
    fn shift(&mut self, index: usize, to: Segment) {
        self.busy(index);
        if let Some(from) = self.nodes[index].segment.replace(to) {
            self.counts[from as usize] -= 1;
        }
        self.counts[to as usize] += 1;
        self.enlist(index, to);
    }

    /// While too many are protected, the one that has been idle for longest is on probation again.
    fn end_protection(&mut self) {
        while self.counts[Segment::Protected as usize] > self.protected
            && let Some(index) = self.oldest(Segment::Protected)
        {
            self.shift(index, Segment::Probation);
        }
    }

    /// Whether there is room in the main part.
    fn has_room(&self) -> bool {
        let main =
            self.counts[Segment::Probation as usize] + self.counts[Segment::Protected as usize];
        main < self.limit - self.window
    }

    /// While too many are in the window, and there is room, the last one of it is let into the main
    /// part.
    fn let_in(&mut self) {
        while self.counts[Segment::Window as usize] > self.window
            && self.has_room()
            && let Some(index) = self.oldest(Segment::Window)
        {
            self.shift(index, Segment::Probation);
        }
    }

    /// One is not in memory any more.
    pub(super) fn remove(&mut self, index: usize) {
        self.busy(index);
        if let Some(segment) = self
            .nodes
            .get_mut(index)
            .and_then(|node| node.segment.take())
        {
            self.counts[segment as usize] -= 1;
        }
    }

    /// One that is to leave, if there are more than may be and one of them can. It counts as gone
    /// from here on, unless it is used before it is.
    pub(super) fn victim(&mut self) -> Option<usize> {
        if self.len() <= self.limit {
            return None;
        }
        self.let_in();
        let of_main = self
            .oldest(Segment::Probation)
            .or_else(|| self.oldest(Segment::Protected));
        let candidate = self
            .oldest(Segment::Window)
            .filter(|_| self.counts[Segment::Window as usize] > self.window);
        let victim = match (candidate, of_main) {
            (Some(candidate), Some(of_main)) if self.is_used_more(candidate, of_main) => {
                self.shift(candidate, Segment::Probation);
                of_main
            }
            (Some(candidate), _) => candidate,
            (None, Some(of_main)) => of_main,
            (None, None) => self.oldest(Segment::Window)?,
        };
        self.remove(victim);
        Some(victim)
    }

    fn is_used_more(&self, one: usize, other: usize) -> bool {
        let uses = |index: usize| {
            let sketch = self.sketch.as_ref()?;
            Some(sketch.estimate(self.nodes[index].hash))
        };
        uses(one) > uses(other)
    }
}

/// Estimates how often each of very many was used lately: a count-min sketch of four rows with
/// counters of four bits. An estimate is at most 15, and never below the truth but by ageing: when ten
/// times as many uses were added as there are words, all counters are halved, so that what was used
/// long ago is forgotten.
#[derive(Debug)]
struct Sketch {
    /// A power of two of them. Each has four counters of each row.
    words: Vec<u64>,
    /// Uses that the counters stand for, about.
    added: usize,
    /// The next word to be halved; as many as there are words if none is to be.
    ageing: usize,
}

impl Sketch {
    const ROWS: u32 = 4;
    /// Uses per word after which all counters are halved.
    const SAMPLE: usize = 10;
    /// Words that are halved at each use meanwhile, so that no use waits for all of them.
    const STEP: usize = 64;

    fn new() -> Self {
        Self {
            words: vec![0; Self::STEP],
            added: 0,
            ageing: Self::STEP,
        }
    }

    /// Has at least as many words as entities. Every estimate stays as it is: a wider place is chosen
    /// by one more bit, and both places that it may lead to know what the narrower one knew.
    fn fit(&mut self, entities: usize) {
        while self.words.len() < entities {
            self.age(usize::MAX);
            self.words.extend_from_within(..);
            self.ageing = self.words.len();
        }
    }

    /// The word of a row's counter, and where it stands there.
    fn place(&self, hash: u32, row: u32) -> (usize, u32) {
        // The finisher of MurmurHash3, begun at another place for each row.
        let mut mixed = hash ^ (row + 1).wrapping_mul(0x9e37_79b9);
        mixed ^= mixed >> 16;
        mixed = mixed.wrapping_mul(0x85eb_ca6b);
        mixed ^= mixed >> 13;
        mixed = mixed.wrapping_mul(0xc2b2_ae35);
        mixed ^= mixed >> 16;
        let word = mixed as usize & (self.words.len() - 1);
        (word, (row * 4 + (mixed >> 30)) * 4)
    }

    fn add(&mut self, hash: u32) {
        self.age(Self::STEP);
        for row in 0..Self::ROWS {
            let (word, shift) = self.place(hash, row);
            if (self.words[word] >> shift) & 0xf < 0xf {
                self.words[word] += 1 << shift;
            }
        }
        self.added += 1;
        if self.added >= self.words.len().saturating_mul(Self::SAMPLE) {
            self.added /= 2;
            self.ageing = 0;
        }
    }

    /// Halves the counters of the next words, if they are to be.
    fn age(&mut self, words: usize) {
        let end = self.ageing.saturating_add(words).min(self.words.len());
        for word in &mut self.words[self.ageing..end] {
            *word = (*word >> 1) & 0x7777_7777_7777_7777;
        }
        self.ageing = end;
    }

    fn estimate(&self, hash: u32) -> u8 {
        let of_row = |row| {
            let (word, shift) = self.place(hash, row);
            u8::try_from((self.words[word] >> shift) & 0xf).unwrap_or(0xf)
        };
        (0..Self::ROWS).map(of_row).min().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
