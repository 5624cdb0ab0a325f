//! How like this encoder's vectors are to candle's, which computes the same model with other code: the cosine of the means of texts' states.
//!
//! ```sh
//! raglan-load-tests encoder --dataset DIR --model MODEL --batches batches.json
//! cargo run --release -p raglan-encoder --example candle -- MODEL batches.json 400
//! ```
#![allow(clippy::print_stdout)] // the figures are the output

use std::{error::Error, fs, path::Path};

use raglan_encoder::{CONFIG, Encoder, Precision, Sequence, WEIGHTS, Weights};

#[allow(dead_code, clippy::unwrap_used)] // it is the tests' code
#[path = "../src/reference.rs"]
mod reference;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, batches, count] = &arguments[..] else {
        return Err("usage: candle MODEL BATCHES COUNT".into());
    };
    let model = Path::new(model);
    let batches: Vec<Vec<Vec<u32>>> = serde_json::from_str(&fs::read_to_string(batches)?)?;
    let texts: Vec<Vec<u32>> = batches.into_iter().flatten().collect();
    let step = (texts.len() / count.parse::<usize>()?.max(1)).max(1);
    let load = |precision| Encoder::load(model, &mut Weights::open(model)?, precision);
    let (exact, rounded) = (load(Precision::F32)?, load(Precision::Int8)?);
    let reference = reference::Reference::load(model);
    let (mut to_candle, mut to_exact) = (Vec::new(), Vec::new());
    for ids in texts.into_iter().step_by(step) {
        let text = Sequence { types: vec![0; ids.len()], ids };
        let width = exact.config().width;
        let run =
            |encoder: &Encoder| encoder.run(&[&text], |mut states| mean(states.next(text.len()), width));
        let (ours, int8) = (run(&exact)?, run(&rounded)?);
        to_candle.push(cosine(&ours, &mean(&reference.states(&text), width)));
        to_exact.push(cosine(&ours, &int8));
    }
    for (name, cosines) in [("f32 to candle", to_candle), ("int8 to f32", to_exact)] {
        let least = cosines.iter().copied().fold(1.0, f64::min);
        let mean = cosines.iter().sum::<f64>() / cosines.len().max(1) as f64;
        println!("{name}: {} texts, cosine {least:.8} at least, {mean:.8} in the mean", cosines.len());
    }
    Ok(())
}

fn mean(states: &[f32], width: usize) -> Vec<f64> {
    let mut sum = vec![0.0; width];
    for row in states.chunks_exact(width) {
        sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
    }
    sum
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}
