//! What a work queue knows: which work waits, who has which, and whose turn it is. It decides; what
//! is to be sent, answered or dropped is the caller's, once it holds no lock any more.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::reply::ReplyTo;

/// Names a worker.
pub(super) type WorkerId = u64;

/// Names a piece of work; those that came later have higher numbers.
pub(super) type Number = u64;

/// Names one handing out of a piece of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket {
    pub(super) number: Number,
    count: u64,
}

pub(super) struct Book<W, R, T> {
    limit: Option<u32>,
    numbers: Number,
    tickets: u64,
    /// What nobody has, in the order in which it came. What comes back has its place from before.
    waiting: BTreeMap<Number, Item<W, R>>,
    /// What somebody has.
    out: BTreeMap<Ticket, Out<W, R>>,
    workers: BTreeMap<WorkerId, Worker<T>>,
    /// Workers with room, in the order of their turns.
    turns: VecDeque<WorkerId>,
    /// Nothing is taken in any more.
    pub(super) is_closed: bool,
    /// The system has stopped: what is not done by now, nobody will do.
    pub(super) is_over: bool,
    pub(super) done: u64,
    pub(super) returned: u64,
    pub(super) discarded: u64,
}

/// A piece of work that is not done.
pub(super) struct Item<W, R> {
    pub(super) work: Arc<W>,
    pub(super) reply: ReplyTo<R>,
    /// How often somebody has begun.
    pub(super) attempts: u32,
    /// Who had it last.
    last: Option<WorkerId>,
}

impl<W, R> Item<W, R> {
    pub(super) fn new(work: W, reply: ReplyTo<R>) -> Self {
        Self {
            work: Arc::new(work),
            reply,
            attempts: 0,
            last: None,
        }
    }

    /// Whether whoever asked has gone and knows that it was not begun.
    fn is_abandoned(&self) -> bool {
        self.attempts == 0 && self.reply.is_abandoned()
    }
}

struct Out<W, R> {
    /// Gone if it was done by somebody who had it before.
    item: Option<Item<W, R>>,
    /// None if it was pulled.
    holder: Option<WorkerId>,
    is_begun: bool,
}

pub(super) struct Worker<T> {
    pub(super) target: T,
    pub(super) capacity: usize,
    pub(super) held: usize,
    /// Whether it handles messages.
    pub(super) is_up: bool,
}

impl<T> Worker<T> {
    fn has_room(&self) -> bool {
        self.is_up && self.held < self.capacity
    }
}

/// What becomes of a piece of work that came back.
pub(super) enum Returned<W, R> {
    /// It waits again, or was done by another.
    Kept,
    /// It was tried as often as it may be, or the system has stopped.
    Discarded(Item<W, R>),
}

/// What somebody is to begin who got a ticket.
pub(super) enum Begun<W, R> {
    Work(Arc<W>, u32),
    /// Whoever asked for it has gone.
    Abandoned(Item<W, R>),
    /// It was taken back, or is done.
    Void,
}

impl<W, R, T> Book<W, R, T> {
    /// `limit` is how often a piece of work may be begun.
    pub(super) fn new(limit: Option<u32>) -> Self {
        Self {
            limit,
            numbers: 0,
            tickets: 0,
            waiting: BTreeMap::new(),
            out: BTreeMap::new(),
            workers: BTreeMap::new(),
            turns: VecDeque::new(),
            is_closed: false,
            is_over: false,
            done: 0,
            returned: 0,
            discarded: 0,
        }
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// What somebody has and is not done.
    pub(super) fn in_progress(&self) -> usize {
        self.out.values().filter(|out| out.item.is_some()).count()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.out.values().all(|out| out.item.is_none())
    }

    pub(super) fn workers(&self) -> impl Iterator<Item = &Worker<T>> {
        self.workers.values()
    }

    pub(super) fn add(&mut self, item: Item<W, R>) {
        self.numbers += 1;
        self.waiting.insert(self.numbers, item);
    }

    /// Takes out what nobody waits for any more and nobody has begun.
    pub(super) fn sweep(&mut self) -> Vec<Item<W, R>> {
        let gone = self.waiting.iter().filter(|(_, item)| item.is_abandoned());
        let gone: Vec<Number> = gone.map(|(number, _)| *number).collect();
        gone.iter()
            .filter_map(|number| self.waiting.remove(number))
            .collect()
    }

    /// Takes out everything that waits, as nobody will do it.
    pub(super) fn discard_waiting(&mut self) -> Vec<Item<W, R>> {
        let waiting = std::mem::take(&mut self.waiting);
        self.discarded += waiting.len() as u64;
        waiting.into_values().collect()
    }

    /// Hands the first piece of work to whoever pulls. Gives none if there is none.
    pub(super) fn hand_out(&mut self) -> Option<Ticket> {
        let number = *self.waiting.keys().next()?;
        Some(self.take_out(number, None))
    }

    /// Hands the first piece of work to the worker whose turn it is, if there are both.
    pub(super) fn assign(&mut self) -> Option<(Ticket, WorkerId)> {
        let (&number, item) = self.waiting.first_key_value()?;
        // Rather not to the one who has just given it up.
        let other = self
            .turns
            .iter()
            .position(|worker| item.last != Some(*worker));
        let worker = self.turns.remove(other.unwrap_or(0))?;
        let ticket = self.take_out(number, Some(worker));
        if let Some(known) = self.workers.get_mut(&worker) {
            known.held += 1;
            if known.has_room() {
                self.turns.push_back(worker);
            }
        }
        Some((ticket, worker))
    }

    fn take_out(&mut self, number: Number, holder: Option<WorkerId>) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket {
            number,
            count: self.tickets,
        };
        let out = Out {
            item: self.waiting.remove(&number),
            holder,
            is_begun: false,
        };
        self.out.insert(ticket, out);
        ticket
    }

    /// Whoever has the ticket begins.
    pub(super) fn begin(&mut self, ticket: Ticket) -> Begun<W, R> {
        let Some(out) = self.out.get_mut(&ticket) else {
            return Begun::Void;
        };
        out.is_begun = true;
        if let Some(item) = &mut out.item
            && (item.attempts > 0 || item.reply.claim())
        {
            item.attempts = item.attempts.saturating_add(1);
            return Begun::Work(Arc::clone(&item.work), item.attempts);
        }
        match self.take_back(ticket) {
            Some(item) => Begun::Abandoned(item),
            None => Begun::Void,
        }
    }

    /// A piece of work is done, whoever has it by now. Gives it, unless it was done before.
    pub(super) fn finish(&mut self, ticket: Ticket) -> Option<Item<W, R>> {
        let mut item = self.take_back(ticket);
        if item.is_none() {
            item = self.waiting.remove(&ticket.number);
        }
        if item.is_none() {
            // Another one is at it, and keeps its place until it is through.
            let of_number = |count| Ticket {
                number: ticket.number,
                count,
            };
            let mut others = self.out.range_mut(of_number(0)..=of_number(u64::MAX));
            item = others.find_map(|(_, out)| out.item.take());
        }
        self.done += u64::from(item.is_some());
        item
    }

    /// Whoever has the ticket does not go on.
    pub(super) fn give_back(&mut self, ticket: Ticket) -> Returned<W, R> {
        let Some(out) = self.out.get(&ticket) else {
            return Returned::Kept;
        };
        let (is_begun, holder) = (out.is_begun, out.holder);
        let Some(mut item) = self.take_back(ticket) else {
            return Returned::Kept;
        };
        let is_worn = |limit| is_begun && item.attempts >= limit;
        if self.is_over || self.limit.is_some_and(is_worn) {
            self.discarded += 1;
            return Returned::Discarded(item);
        }
        self.returned += u64::from(is_begun);
        item.last = holder;
        self.waiting.insert(ticket.number, item);
        Returned::Kept
    }

    /// Ends a handing out; its holder has room again.
    fn take_back(&mut self, ticket: Ticket) -> Option<Item<W, R>> {
        let out = self.out.remove(&ticket)?;
        if let Some(holder) = out.holder
            && let Some(worker) = self.workers.get_mut(&holder)
        {
            let had_room = worker.has_room();
            worker.held -= 1;
            if worker.has_room() && !had_room {
                self.turns.push_back(holder);
            }
        }
        out.item
    }

    /// A worker may have as many pieces of work at once. Whether it is new.
    pub(super) fn join(&mut self, id: WorkerId, capacity: usize, target: T) -> bool {
        let is_new = !self.workers.contains_key(&id);
        let held = match is_new {
            // It may have left with work.
            true => self.held_by(id).len(),
            false => 0,
        };
        let worker = self.workers.entry(id).or_insert(Worker {
            target,
            capacity,
            held,
            is_up: false,
        });
        worker.capacity = capacity;
        self.set_turn(id);
        is_new
    }

    /// A worker gets no more. What it has it may finish.
    pub(super) fn leave(&mut self, id: WorkerId) -> bool {
        let was_there = self.workers.remove(&id).is_some();
        self.set_turn(id);
        was_there
    }

    /// A worker handles messages from now on, or does not.
    pub(super) fn set_up(&mut self, id: WorkerId, is_up: bool) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.is_up = is_up;
            self.set_turn(id);
        }
    }

    /// Has a worker take turns if it has room, and only then.
    fn set_turn(&mut self, id: WorkerId) {
        let has_room = self.workers.get(&id).is_some_and(Worker::has_room);
        let turn = self.turns.iter().position(|worker| *worker == id);
        match turn {
            None if has_room => self.turns.push_back(id),
            Some(turn) if !has_room => drop(self.turns.remove(turn)),
            _ => {}
        }
    }

    /// What a worker has.
    pub(super) fn held_by(&self, id: WorkerId) -> Vec<Ticket> {
        let of_worker =
            |(ticket, out): (&Ticket, &Out<W, R>)| (out.holder == Some(id)).then_some(*ticket);
        self.out.iter().filter_map(of_worker).collect()
    }

    /// Who has the ticket, if it is a worker.
    pub(super) fn holder(&self, ticket: Ticket) -> Option<WorkerId> {
        self.out.get(&ticket)?.holder
    }

    pub(super) fn target(&self, id: WorkerId) -> Option<&T> {
        self.workers.get(&id).map(|worker| &worker.target)
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    type TestBook = Book<u32, (), ()>;

    fn add(book: &mut TestBook, work: u32) {
        book.add(Item::new(work, ReplyTo::nobody()));
    }

    fn begin(book: &mut TestBook, ticket: Ticket) -> Option<(u32, u32)> {
        match book.begin(ticket) {
            Begun::Work(work, attempt) => Some((*work, attempt)),
            Begun::Abandoned(_) | Begun::Void => None,
        }
    }

    fn join(book: &mut TestBook, id: WorkerId, capacity: usize) {
        book.join(id, capacity, ());
        book.set_up(id, true);
    }

    #[test]
    fn workers_take_turns_up_to_their_capacity() {
        let mut book = TestBook::new(None);
        join(&mut book, 1, 1);
        join(&mut book, 2, 2);
        for work in 0..4 {
            add(&mut book, work);
        }
        let order: Vec<WorkerId> = std::iter::from_fn(|| book.assign())
            .map(|(_, id)| id)
            .collect();
        assert_eq!(order, [1, 2, 2]);
        assert_eq!((book.waiting(), book.in_progress()), (1, 3));
        book.join(1, 2, ());
        assert_eq!(book.assign().map(|(_, id)| id), Some(1));
    }

    #[test]
    fn what_comes_back_is_the_first_again_and_goes_to_another() {
        let mut book = TestBook::new(None);
        join(&mut book, 1, 9);
        for work in 0..3 {
            add(&mut book, work);
        }
        let (first, _) = book.assign().expect("there is room");
        let (second, _) = book.assign().expect("there is room");
        assert_eq!(begin(&mut book, first), Some((0, 1)));
        assert_eq!(begin(&mut book, second), Some((1, 1)));
        join(&mut book, 2, 9);
        book.give_back(second);
        book.give_back(first);
        let (again, id) = book.assign().expect("there is room");
        assert_eq!((begin(&mut book, again), id), (Some((0, 2)), 2));
        let (again, id) = book.assign().expect("there is room");
        assert_eq!((begin(&mut book, again), id), (Some((1, 2)), 2));
        // With nobody else it goes to the same one.
        book.leave(1);
        book.give_back(again);
        assert_eq!(book.assign().map(|(_, id)| id), Some(2));
    }

    #[test]
    fn it_is_tried_exactly_as_often_as_the_limit_says() {
        let mut book = TestBook::new(Some(2));
        join(&mut book, 1, 1);
        add(&mut book, 7);
        for attempt in 1..=2 {
            // One that was not begun is no attempt.
            let (ticket, _) = book.assign().expect("it waits");
            assert!(matches!(book.give_back(ticket), Returned::Kept));
            let (ticket, _) = book.assign().expect("it waits");
            assert_eq!(begin(&mut book, ticket), Some((7, attempt)));
            let is_over = matches!(book.give_back(ticket), Returned::Discarded(_));
            assert_eq!(is_over, attempt == 2);
        }
        assert!(book.is_empty());
        assert_eq!((book.returned, book.discarded), (1, 1));
    }

    #[test]
    fn whoever_is_done_first_counts_and_the_other_keeps_its_place_until_then() {
        let mut book = TestBook::new(None);
        join(&mut book, 1, 1);
        join(&mut book, 2, 1);
        add(&mut book, 7);
        add(&mut book, 8);
        let (late, _) = book.assign().expect("it waits");
        begin(&mut book, late);
        // The first worker has restarted, but its work goes on somewhere.
        book.give_back(late);
        let (again, id) = book.assign().expect("it waits");
        assert_eq!(id, 2);
        begin(&mut book, again);
        assert!(book.finish(late).is_some());
        let (other, id) = book.assign().expect("there is one more");
        assert_eq!(id, 1, "the second one is still busy");
        assert!(book.finish(again).is_none());
        assert_eq!(book.done, 1);
        book.give_back(other);
        assert_eq!(book.assign().map(|(_, id)| id), Some(2));
    }

    /// Whatever happens in whatever order, nothing is lost or done twice, and no worker has more
    /// than it wanted.
    #[test]
    fn books_balance() {
        for seed in 0..200 {
            let mut rng = SmallRng::seed_from_u64(seed);
            let mut book = TestBook::new(None);
            let mut added = 0;
            let mut tickets: Vec<Ticket> = Vec::new();
            for _ in 0..400 {
                let id = rng.random_range(0..4);
                match rng.random_range(0..10) {
                    0 | 1 => {
                        add(&mut book, added);
                        added += 1;
                    }
                    2 => drop(book.join(id, rng.random_range(0..4), ())),
                    3 => drop(book.leave(id)),
                    4 => book.set_up(id, rng.random_range(0..3) > 0),
                    5 => tickets.extend(book.hand_out()),
                    6 => tickets.extend(book.assign().map(|(ticket, _)| ticket)),
                    action => {
                        if tickets.is_empty() {
                            continue;
                        }
                        let at = rng.random_range(0..tickets.len());
                        match action {
                            7 => drop(begin(&mut book, tickets[at])),
                            8 => drop(book.finish(tickets.swap_remove(at))),
                            // Some are finished all the same later on.
                            _ => drop(book.give_back(tickets[at])),
                        }
                    }
                }
                let there = (book.waiting() + book.in_progress()) as u64 + book.done;
                assert_eq!(there, u64::from(added), "seed {seed}");
                for (id, worker) in &book.workers {
                    assert_eq!(worker.held, book.held_by(*id).len(), "seed {seed}");
                    let turns = book.turns.iter().filter(|turn| *turn == id).count();
                    assert_eq!(turns, usize::from(worker.has_room()), "seed {seed}");
                }
                assert!(book.turns.iter().all(|id| book.workers.contains_key(id)));
            }
        }
    }
}
