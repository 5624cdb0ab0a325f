use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn groups_hold_every_text_once_and_little_padding(lengths in prop::collection::vec(1_usize..512, 0..200)) {
        let groups = groups(&lengths);
        let mut all: Vec<usize> = groups.iter().flatten().copied().collect();
        all.sort_unstable();
        prop_assert_eq!(all, (0..lengths.len()).collect::<Vec<_>>());
        for group in &groups {
            let of_group: Vec<usize> = group.iter().map(|index| lengths[*index]).collect();
            prop_assert!(of_group.is_sorted_by(|a, b| a >= b));
            let (padded, tokens) = (of_group[0] * of_group.len(), of_group.iter().sum::<usize>());
            prop_assert!(padded <= FEW_TOKENS || padded - tokens <= padded / PADDING);
        }
        // A group was only begun where the text did not fit into the one before.
        for pair in groups.windows(2) {
            let before: usize = pair[0].iter().map(|index| lengths[*index]).sum();
            let padded = (pair[0].len() + 1) * lengths[pair[0][0]];
            prop_assert!(!fits(padded, before + lengths[pair[1][0]]));
        }
    }
}

#[test]
fn alike_texts_are_one_group_and_a_long_one_does_not_pad_many_short_ones() {
    assert_eq!(groups(&[128; 64]).len(), 1);
    let mut lengths = vec![16; 400];
    lengths[7] = 512;
    let groups = groups(&lengths);
    assert_eq!(groups[0][0], 7);
    assert_eq!(groups.iter().map(Vec::len).collect::<Vec<_>>(), [4, 396]);
}

#[test]
fn without_cuda_a_gpu_is_refused_with_what_to_do() {
    // In a program with CUDA the driver says what is missing, on a machine without a GPU.
    if !cfg!(feature = "cuda") {
        let error = cuda(1).unwrap_err().to_string();
        assert_eq!(
            error,
            "cuda:1 cannot be used: this program was built without CUDA; build it with --features cuda, or run the model on the cpu"
        );
    }
}

#[test]
fn a_gpu_that_is_not_there_is_found_out_without_a_model() {
    use crate::models::{Placement, Precision};
    assert!(Placement::Cpu(Precision::Int8).check().is_ok());
    // There is no GPU with this number, whatever the program was built for.
    let error = Placement::Cuda(99, GpuPrecision::F16).check().unwrap_err().to_string();
    assert!(error.starts_with("cuda:99 cannot be used: ") && error.lines().count() == 1, "{error}");
}
