//! Which item of one list is which of the other.
//!
//! Input: fingerprints, or keys, of two lists. Output: pairs, and what is left over on either side. Must not: take longer than
//! its bound: what cannot be aligned within it is not known to be different.

use super::Unknown;
use super::node::Budget;
use std::collections::HashMap;

/// Cells of the table that finds the longest common subsequence: 4 million of 2 bytes are 8 MB.
const CELLS_MAX: usize = 4_000_000;

/// One step through both lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The same, at these places.
    Same(usize, usize),
    /// In each other's place.
    Changed(usize, usize),
    Legacy(usize),
    Serverless(usize),
}

/// By order: what stands between two common items takes each other's place.
pub fn by_order(a: &[u64], b: &[u64], budget: &mut Budget) -> Result<Vec<Step>, Unknown> {
    let start = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let (left, right) = (&a[start..], &b[start..]);
    let end = left.iter().rev().zip(right.iter().rev()).take_while(|(a, b)| a == b).count();
    let (left, right) = (&left[..left.len() - end], &right[..right.len() - end]);
    let mut steps: Vec<Step> = (0..start).map(|at| Step::Same(at, at)).collect();
    let common = if left.is_empty() || right.is_empty() { Vec::new() } else { common(left, right, budget)? };
    let (mut x, mut y) = (0, 0);
    for (i, j) in common.into_iter().chain([(left.len(), right.len())]) {
        while x < i || y < j {
            steps.push(match (x < i, y < j) {
                (true, true) => Step::Changed(start + x, start + y),
                (true, false) => Step::Legacy(start + x),
                (false, _) => Step::Serverless(start + y),
            });
            (x, y) = ((x + 1).min(i), (y + 1).min(j));
        }
        if i < left.len() && j < right.len() {
            steps.push(Step::Same(start + i, start + j));
            (x, y) = (i + 1, j + 1);
        }
    }
    let (from_a, from_b) = (start + left.len(), start + right.len());
    steps.extend((0..end).map(|at| Step::Same(from_a + at, from_b + at)));
    Ok(steps)
}

/// Places of a longest common subsequence.
fn common(a: &[u64], b: &[u64], budget: &mut Budget) -> Result<Vec<(usize, usize)>, Unknown> {
    let (rows, columns) = (a.len() + 1, b.len() + 1);
    let cells = rows.saturating_mul(columns);
    if cells > CELLS_MAX {
        return Err(Unknown::Budget);
    }
    budget.spend_cells(cells)?;
    // Lengths fit: with 65,536 rows there would be no room for more than 61 columns, and the length is the smaller of the two.
    let mut table = vec![0u16; rows * columns];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            table[i * columns + j] = if a[i] == b[j] {
                table[(i + 1) * columns + j + 1] + 1
            } else {
                table[(i + 1) * columns + j].max(table[i * columns + j + 1])
            };
        }
    }
    let (mut i, mut j, mut pairs) = (0, 0, Vec::new());
    while i < a.len() && j < b.len() {
        if a[i] == b[j] {
            pairs.push((i, j));
            (i, j) = (i + 1, j + 1);
        } else if table[(i + 1) * columns + j] >= table[i * columns + j + 1] {
            i += 1;
        } else {
            j += 1;
        }
    }
    Ok(pairs)
}

/// As bags: equal ones are the same wherever they stand; of the rest, the first takes the place of the first.
pub fn by_value(a: &[u64], b: &[u64]) -> Vec<Step> {
    let mut places: HashMap<u64, Vec<usize>> = HashMap::new();
    for (at, value) in b.iter().enumerate().rev() {
        places.entry(*value).or_default().push(at);
    }
    let (mut steps, mut left) = (Vec::new(), Vec::new());
    for (at, value) in a.iter().enumerate() {
        match places.get_mut(value).and_then(Vec::pop) {
            Some(other) => steps.push(Step::Same(at, other)),
            None => left.push(at),
        }
    }
    let mut right: Vec<usize> = places.into_values().flatten().collect();
    right.sort_unstable();
    let pairs = left.len().min(right.len());
    steps.extend(left.iter().zip(&right).map(|(a, b)| Step::Changed(*a, *b)));
    steps.extend(left[pairs..].iter().map(|at| Step::Legacy(*at)));
    steps.extend(right[pairs..].iter().map(|at| Step::Serverless(*at)));
    steps
}

/// By a key that is unique on each side.
pub fn by_key(a: &[&str], b: &[&str]) -> Vec<Step> {
    let mut places: HashMap<&str, usize> = b.iter().enumerate().map(|(at, key)| (*key, at)).collect();
    let mut steps: Vec<Step> = a
        .iter()
        .enumerate()
        .map(|(at, key)| places.remove(key).map_or(Step::Legacy(at), |other| Step::Changed(at, other)))
        .collect();
    let mut rest: Vec<usize> = places.into_values().collect();
    rest.sort_unstable();
    steps.extend(rest.into_iter().map(Step::Serverless));
    steps
}

/// Whether what is in both lists stands in the same order.
pub fn is_in_order(steps: &[Step]) -> bool {
    let places = steps.iter().filter_map(|step| match step {
        Step::Same(_, other) | Step::Changed(_, other) => Some(*other),
        Step::Legacy(_) | Step::Serverless(_) => None,
    });
    places.is_sorted()
}
