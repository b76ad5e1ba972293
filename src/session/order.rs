//! The order of sessions: children behind the session that started them, siblings as they came.
//!
//! It is fixed when a session opens, so that what is listed again is listed in the same order; only those move who were
//! back before their parent was, see `Hub::adopt`.

use serde::{Deserialize, Serialize};

/// How many numbers an order has at most. The descendants of a deeper session stand behind it as its siblings.
pub const MAX_DEPTH: usize = 64;

/// Where a session stands among all: the numbers of its ancestors, the oldest first, and its own, which grow with
/// everything that comes. Sorted by it, sessions are in the order of their tree.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Order(Box<[u64]>);

impl Order {
    /// The place of a session behind its parent, if it has one.
    #[must_use]
    pub fn new(parent: Option<&Order>, number: u64) -> Order {
        let above = parent.map_or(&[][..], |parent| &parent.0);
        let above = &above[..above.len().min(MAX_DEPTH - 1)];
        Order(above.iter().copied().chain([number]).collect())
    }

    /// The session's own number: the smaller, the earlier it came.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.0.last().copied().unwrap_or_default()
    }

    /// Where this place is when the one at `from`, or above it, has moved to `to`; none if it is another's.
    #[must_use]
    pub fn moved(&self, from: &Order, to: &Order) -> Option<Order> {
        let below = self.0.strip_prefix(&*from.0)?;
        let mut moved = to.0.to_vec();
        for number in below {
            moved.truncate(MAX_DEPTH - 1);
            moved.push(*number);
        }
        Some(Order(moved.into()))
    }

    /// Whether this is the place of an ancestor of the session in that place.
    #[must_use]
    pub fn is_above(&self, other: &Order) -> bool {
        self.0.len() < other.0.len() && other.0.starts_with(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The orders of sessions that come one after the other, each with the place of its parent in the list.
    fn family(parents: &[Option<usize>]) -> Vec<Order> {
        let mut orders: Vec<Order> = Vec::new();
        for (number, parent) in (1..).zip(parents) {
            let parent = parent.map(|parent| &orders[parent]);
            orders.push(Order::new(parent, number));
        }
        orders
    }

    #[test]
    fn children_stand_behind_their_parent_and_siblings_as_they_came() {
        let orders = family(&[
            None,
            None,
            Some(0),
            Some(1),
            Some(2),
            Some(0),
            None,
            Some(2),
        ]);
        let mut sorted = orders.clone();
        sorted.sort();
        let numbers: Vec<u64> = sorted.iter().map(Order::number).collect();
        assert_eq!(numbers, [1, 3, 5, 8, 6, 2, 4, 7]);
        assert!(orders[0].is_above(&orders[4]) && orders[2].is_above(&orders[4]));
        assert!(!orders[1].is_above(&orders[4]) && !orders[4].is_above(&orders[4]));
    }

    #[test]
    fn who_moves_takes_its_children_along() {
        let orders = family(&[None, Some(0), Some(1), None]);
        let (from, to) = (&orders[0], Order::new(Some(&orders[3]), 1));
        let moved: Vec<Option<Order>> = orders.iter().map(|order| order.moved(from, &to)).collect();
        assert_eq!(moved[0].as_ref(), Some(&to));
        assert_eq!(moved[2], Some(Order([4, 1, 2, 3].into())));
        assert_eq!(moved[3], None);
    }

    #[test]
    fn a_generation_too_deep_stands_behind_its_ancestors_all_the_same() {
        let parents: Vec<Option<usize>> = (0..3 * MAX_DEPTH).map(|at| at.checked_sub(1)).collect();
        let orders = family(&parents);
        assert!(orders.is_sorted());
        assert!(orders.iter().all(|order| order.0.len() <= MAX_DEPTH));
        assert!(orders[0].is_above(&orders[3 * MAX_DEPTH - 1]));
    }
}
