//! Grouping what is written into records and transactions that are not too large.

/// Groups items in their order: each group has at most `count` of them, and more than
/// `bytes` together only where a single one has.
pub(super) fn batches<T>(
    items: impl IntoIterator<Item = T>,
    count: usize,
    bytes: usize,
    size: impl Fn(&T) -> usize,
) -> Vec<Vec<T>> {
    let mut batches: Vec<Vec<T>> = Vec::new();
    let mut taken = 0;
    for item in items {
        let size = size(&item);
        match batches.last_mut() {
            Some(batch) if batch.len() < count && taken + size <= bytes => {
                taken += size;
                batch.push(item);
            }
            _ => {
                taken = size;
                batches.push(vec![item]);
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_keep_the_order_and_both_limits() {
        let grouped = batches([3, 3, 4, 1, 20, 1, 1, 1, 1], 3, 10, |&size| size);
        assert_eq!(grouped, [vec![3, 3, 4], vec![1], vec![20], vec![1, 1, 1], vec![1]]);
        assert!(batches([0; 0], 3, 10, |&size| size).is_empty());
    }
}
