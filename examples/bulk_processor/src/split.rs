//! Which rows of a refused batch are to blame.

use std::ops::Range;

/// The parts of a batch that are still to be tried. A part that is refused is split in halves, down
/// to the row that is refused alone; parts that are taken are done. Of a batch with `k` rows to blame
/// among `n` that takes some `k` times the binary logarithm of `n` attempts.
#[derive(Debug)]
pub struct Split {
    todo: Vec<Range<usize>>,
}

impl Split {
    /// A batch of so many rows, which is tried as a whole first.
    pub fn of(rows: usize) -> Self {
        let all = (rows > 0).then_some(0..rows);
        Self {
            todo: all.into_iter().collect(),
        }
    }

    /// The next part to try, in the order of the rows.
    pub fn next_part(&mut self) -> Option<Range<usize>> {
        self.todo.pop()
    }

    /// A part was refused. Gives the row that is to blame if it was alone.
    pub fn refused(&mut self, part: Range<usize>) -> Option<usize> {
        if part.len() <= 1 {
            return Some(part.start);
        }
        let middle = part.start + part.len() / 2;
        self.todo.push(middle..part.end);
        self.todo.push(part.start..middle);
        None
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    /// Gives who is to blame, and how many attempts that took.
    fn blame(rows: usize, is_bad: impl Fn(usize) -> bool) -> (Vec<usize>, usize) {
        let mut split = Split::of(rows);
        let (mut taken, mut blamed, mut attempts) = (vec![0; rows], Vec::new(), 0);
        while let Some(part) = split.next_part() {
            attempts += 1;
            if part.clone().any(&is_bad) {
                blamed.extend(split.refused(part));
            } else {
                part.for_each(|row| taken[row] += 1);
            }
        }
        for (row, taken) in taken.into_iter().enumerate() {
            assert_eq!(taken, usize::from(!is_bad(row)), "row {row} of {rows}");
        }
        (blamed, attempts)
    }

    #[test]
    fn exactly_the_bad_rows_are_blamed_and_every_other_is_taken_once() {
        let mut random = StdRng::seed_from_u64(7);
        for _ in 0..500 {
            let rows = random.random_range(0..200);
            let density = random.random::<f64>().powi(3);
            let bad: Vec<bool> = (0..rows).map(|_| random.random_bool(density)).collect();
            let (blamed, _) = blame(rows, |row| bad[row]);
            let expected: Vec<usize> = (0..rows).filter(|row| bad[*row]).collect();
            assert_eq!(blamed, expected);
        }
    }

    #[test]
    fn a_single_culprit_costs_a_logarithm() {
        for culprit in [0, 1, 499, 998, 999] {
            let (blamed, attempts) = blame(1000, |row| row == culprit);
            assert_eq!(blamed, [culprit]);
            assert!(attempts <= 1 + 2 * 10, "{attempts}");
        }
        assert_eq!(blame(1000, |_| false), (vec![], 1));
        assert_eq!(blame(4, |_| true).1, 7);
        assert_eq!(blame(0, |_| true), (vec![], 0));
    }
}
