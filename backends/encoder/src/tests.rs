use std::path::Path;

use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::{
    Encoder, Precision, ScoreHead, Sequence, Weights,
    kernels::Kernels,
    reference::Reference,
    tiny::{self, Shape, Stored},
};

/// Random texts of these lengths.
fn texts(lengths: &[usize]) -> Vec<Sequence> {
    let mut random = StdRng::seed_from_u64(11);
    lengths
        .iter()
        .map(|&length| Sequence {
            // Zero is the padding's token.
            ids: (0..length).map(|_| random.random_range(1..60)).collect(),
            types: vec![0; length],
        })
        .collect()
}

fn load(folder: &Path, precision: Precision, kernels: Kernels) -> Encoder {
    Encoder::with_kernels(folder, &mut Weights::open(folder).unwrap(), precision, kernels).unwrap()
}

/// Each text's states, in one batch.
fn run(encoder: &Encoder, texts: &[Sequence]) -> Vec<Vec<f32>> {
    let batch: Vec<&Sequence> = texts.iter().collect();
    encoder
        .run(&batch, |mut states| texts.iter().map(|text| states.next(text.len()).to_vec()).collect())
        .unwrap()
}

/// The least cosine of a token's states to the reference's.
fn likeness(found: &[f32], expected: &[f32], width: usize) -> f64 {
    assert_eq!(found.len(), expected.len());
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    found
        .chunks_exact(width)
        .zip(expected.chunks_exact(width))
        .map(|(a, b)| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt())
        .fold(1.0, f64::min)
}

/// Compares the two for texts of many lengths, on all kernels that run here.
fn compare(shape: Shape) {
    let folder = tempfile::tempdir().unwrap();
    tiny::encoder(folder.path(), &shape).unwrap();
    let reference = Reference::load(folder.path());
    let texts = texts(&[1, 2, 13, 16, 31, 32, 33, 47, 60, 5]);
    let expected: Vec<Vec<f32>> = texts.iter().map(|text| reference.states(text)).collect();
    for kernels in Kernels::available() {
        for (precision, least) in [(Precision::F32, 0.999_999), (Precision::Int8, 0.99)] {
            let found = run(&load(folder.path(), precision, kernels), &texts);
            for ((found, expected), text) in found.iter().zip(&expected).zip(&texts) {
                let likeness = likeness(found, expected, shape.width);
                let tokens = text.len();
                assert!(
                    likeness > least,
                    "{shape:?}, {kernels:?}, {precision:?}, {tokens} tokens: {likeness}"
                );
            }
        }
    }
}

#[test]
fn states_are_those_of_candle_whatever_the_shape() {
    compare(Shape::default());
    // Heads of 64, as most models have them.
    compare(Shape { width: 128, heads: 2, inner: 512, ..Shape::default() });
    // Nothing fits a tile.
    compare(Shape { width: 60, heads: 5, inner: 77, ..Shape::default() });
    compare(Shape { width: 96, heads: 1, inner: 100, ..Shape::default() });
}

#[test]
fn states_are_those_of_candle_whatever_the_activation() {
    for activation in ["gelu", "gelu_new", "relu"] {
        compare(Shape { activation, epsilon: 1e-5, ..Shape::default() });
    }
}

#[test]
fn positions_of_roberta_begin_behind_its_padding() {
    compare(Shape { family: "xlm-roberta", ..Shape::default() });
}

#[test]
fn half_precision_files_are_read() {
    for stored in [Stored::F16, Stored::Bf16] {
        compare(Shape { stored, ..Shape::default() });
    }
}

#[test]
fn a_text_s_states_do_not_depend_on_its_neighbours() {
    let folder = tempfile::tempdir().unwrap();
    tiny::encoder(folder.path(), &Shape { width: 64, heads: 2, inner: 80, ..Shape::default() }).unwrap();
    // Enough for several groups of texts.
    let texts = texts(&[60, 7, 33, 1, 60, 59, 60, 58, 12, 60, 2, 60]);
    for kernels in Kernels::available() {
        for precision in [Precision::F32, Precision::Int8] {
            let encoder = load(folder.path(), precision, kernels);
            let together = run(&encoder, &texts);
            for (index, text) in texts.iter().enumerate() {
                let alone = run(&encoder, std::slice::from_ref(text));
                assert_eq!(alone[0], together[index], "{kernels:?} {precision:?}: text {index}");
            }
        }
    }
}

#[test]
fn what_a_model_cannot_read_is_an_error_and_not_a_panic() {
    let folder = tempfile::tempdir().unwrap();
    tiny::encoder(folder.path(), &Shape::default()).unwrap();
    let encoder = load(folder.path(), Precision::Int8, Kernels::detect());
    let read = |ids: Vec<u32>, types: Vec<u32>| encoder.run(&[&Sequence { ids, types }], |_| ());
    assert!(read(vec![5], vec![0]).is_ok());
    assert!(read(vec![u32::MAX], vec![0]).unwrap_err().contains("no token"));
    assert!(read(vec![5], vec![2]).unwrap_err().contains("type 2"));
    assert!(read(vec![5; 65], vec![0; 65]).unwrap_err().contains("65 tokens"));
}

#[test]
fn weights_of_eight_bits_take_a_quarter_of_the_memory() {
    let folder = tempfile::tempdir().unwrap();
    tiny::encoder(folder.path(), &Shape { width: 256, heads: 4, inner: 1024, ..Shape::default() }).unwrap();
    let [exact, fast] = [Precision::F32, Precision::Int8]
        .map(|precision| load(folder.path(), precision, Kernels::detect()).bytes());
    let ratio = exact as f64 / fast as f64;
    assert!((3.0..4.5).contains(&ratio), "{exact} and {fast} bytes");
}

#[test]
fn scores_of_cross_encoders_are_those_of_candle() {
    for family in ["bert", "xlm-roberta"] {
        let folder = tempfile::tempdir().unwrap();
        tiny::cross_encoder(folder.path(), &Shape { family, ..Shape::default() }).unwrap();
        let reference = Reference::load(folder.path());
        let head = ScoreHead::read(folder.path(), &mut Weights::open(folder.path()).unwrap(), 32).unwrap();
        for (precision, tolerance) in [(Precision::F32, 1e-4), (Precision::Int8, 0.1)] {
            let encoder = load(folder.path(), precision, Kernels::detect());
            for mut pair in texts(&[40, 3, 22]) {
                let half = pair.len() / 2;
                pair.types[half..].fill(u32::from(family == "bert"));
                let score = encoder.run(&[&pair], |mut states| head.score(states.next(pair.len()))).unwrap();
                let expected = reference.score(&pair);
                assert!(
                    (score - expected).abs() < tolerance,
                    "{family} {precision:?}: {score} for {expected}"
                );
            }
        }
    }
}

#[test]
fn a_model_without_a_classifier_is_no_cross_encoder() {
    let folder = tempfile::tempdir().unwrap();
    tiny::encoder(folder.path(), &Shape::default()).unwrap();
    let head = ScoreHead::read(folder.path(), &mut Weights::open(folder.path()).unwrap(), 32);
    let error = head.err().unwrap().to_string();
    assert!(error.contains("no cross-encoder"), "{error}");
}
