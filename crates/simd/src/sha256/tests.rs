use aws_lc_rs::digest::{SHA256, digest};
use proptest::prelude::*;

use super::Hasher;

/// As another implementation has it.
fn other(data: &[u8]) -> Vec<u8> {
    digest(&SHA256, data).as_ref().to_vec()
}

/// This processor has none: nothing is to be tested, and the self-test must have said so.
fn hasher() -> Option<Hasher> {
    assert_eq!(Hasher::new().is_some(), super::is_available(), "it has the instructions, and they are right");
    Hasher::new()
}

#[test]
fn every_length_about_a_block_is_padded_as_the_standard_says() {
    let Some(new) = hasher() else { return };
    let data: Vec<u8> = (0..=255).collect();
    for length in 0..=data.len() {
        let mut one = new.clone();
        one.update(&data[..length]);
        assert_eq!(one.finish().to_vec(), other(&data[..length]), "{length}");
    }
}

proptest! {
    #[test]
    fn pieces_and_neighbours_change_nothing(
        pieces in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..400), prop::collection::vec(any::<u8>(), 0..400)), 0..12)
    ) {
        let Some(new) = hasher() else { return Ok(()) };
        let (mut a, mut b) = (new.clone(), new);
        let (mut all_a, mut all_b) = (Vec::new(), Vec::new());
        for (to_a, to_b) in &pieces {
            Hasher::update_two(&mut a, to_a, &mut b, to_b);
            all_a.extend_from_slice(to_a);
            all_b.extend_from_slice(to_b);
        }
        prop_assert_eq!(a.finish().to_vec(), other(&all_a));
        prop_assert_eq!(b.finish().to_vec(), other(&all_b));
    }
}
