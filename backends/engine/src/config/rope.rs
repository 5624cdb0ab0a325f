//! How a rotary embedding turns: its frequencies, and how they are stretched for contexts longer than a model was first trained on.

use serde_json::Value;

/// A rotary embedding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rope {
    /// The base of the frequencies.
    pub theta: f64,
    /// How they are stretched.
    pub scaling: RopeScaling,
}

/// How the frequencies of a rotary embedding are stretched.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All by one factor.
    Linear {
        /// By how much.
        factor: f64,
    },
    /// Llama 3.1's: slow frequencies by the factor, fast ones not at all, those between in part.
    Llama3 {
        /// By how much the slow ones are.
        factor: f64,
        /// A frequency is slow that turns less often than this within `original`.
        low: f64,
        /// A frequency is fast that turns more often than this within `original`.
        high: f64,
        /// The positions that the model was first trained on.
        original: f64,
    },
    /// YaRN (Peng et al. 2023, "YaRN: Efficient Context Window Extension of Large Language Models").
    Yarn {
        /// By how much the slow ones are.
        factor: f64,
        /// The positions that the model was first trained on.
        original: f64,
        /// Turns within `original` above which a frequency is left alone.
        fast: f64,
        /// Turns within `original` below which a frequency is stretched by the factor.
        slow: f64,
        /// What sines and cosines are multiplied by.
        attention: f64,
        /// Whether the borders between fast and slow are rounded outwards to whole dimensions.
        truncate: bool,
    },
}

/// Why a model is not run of whose heads only a part is rotated.
pub(super) fn partly_rotated(factor: f64) -> String {
    format!("only {factor} of each head is rotated, and here all of it is")
}

impl Rope {
    /// Reads `rope_theta` beside `rope_scaling`, or, as newer files have it, both in one section.
    pub(super) fn of_config(
        theta: Option<f64>,
        section: Option<&Value>,
        positions: usize,
    ) -> Result<Self, String> {
        let number = |name: &str| section.and_then(|section| section.get(name)).and_then(Value::as_f64);
        let theta = number("rope_theta").or(theta).unwrap_or(10_000.0);
        let kind = section
            .and_then(|section| section.get("rope_type").or_else(|| section.get("type")))
            .and_then(Value::as_str)
            .unwrap_or("default");
        if let Some(factor) = number("partial_rotary_factor").filter(|factor| *factor != 1.0) {
            return Err(partly_rotated(factor));
        }
        let needed =
            |name: &str| number(name).ok_or_else(|| format!("its rotary embedding ({kind}) lacks {name}"));
        let original = number("original_max_position_embeddings").unwrap_or(positions as f64);
        let scaling = match kind {
            "default" => RopeScaling::None,
            "linear" => RopeScaling::Linear { factor: needed("factor")? },
            "llama3" => RopeScaling::Llama3 {
                factor: needed("factor")?,
                low: needed("low_freq_factor")?,
                high: needed("high_freq_factor")?,
                original: needed("original_max_position_embeddings")?,
            },
            "yarn" => {
                let factor = needed("factor")?;
                let grown = |times: f64| if factor <= 1.0 { 1.0 } else { 0.1 * times * factor.ln() + 1.0 };
                let attention = number("attention_factor").unwrap_or_else(|| {
                    match (number("mscale"), number("mscale_all_dim")) {
                        (Some(part), Some(all)) if part != 0.0 && all != 0.0 => grown(part) / grown(all),
                        _ => grown(1.0),
                    }
                });
                RopeScaling::Yarn {
                    factor,
                    original,
                    fast: number("beta_fast").unwrap_or(32.0),
                    slow: number("beta_slow").unwrap_or(1.0),
                    attention,
                    truncate: section
                        .and_then(|section| section.get("truncate"))
                        .and_then(Value::as_bool)
                        .unwrap_or(true),
                }
            }
            other => return Err(format!("its rotary embedding is stretched by {other}, which is not known")),
        };
        Ok(Self { theta, scaling })
    }

    /// The angle between neighbouring positions, for each pair of a head's dimensions.
    #[must_use]
    pub fn frequencies(&self, head_dim: usize) -> Vec<f32> {
        let pairs = head_dim / 2;
        let plain = (0..pairs).map(|pair| self.theta.powf(-2.0 * pair as f64 / head_dim as f64));
        let turns_in = |frequency: f64, original: f64| original * frequency / std::f64::consts::TAU;
        let stretched: Vec<f64> = match self.scaling {
            RopeScaling::None => plain.collect(),
            RopeScaling::Linear { factor } => plain.map(|frequency| frequency / factor).collect(),
            RopeScaling::Llama3 { factor, low, high, original } => plain
                .map(|frequency| {
                    let turns = turns_in(frequency, original);
                    let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    kept * frequency + (1.0 - kept) * frequency / factor
                })
                .collect(),
            RopeScaling::Yarn { factor, original, fast, slow, truncate, .. } => {
                // The dimension whose frequency turns so often within the original positions.
                let dimension = |turns: f64| {
                    head_dim as f64 * (original / (turns * std::f64::consts::TAU)).ln()
                        / (2.0 * self.theta.ln())
                };
                let (mut first, mut last) = (dimension(fast), dimension(slow));
                if truncate {
                    (first, last) = (first.floor(), last.ceil());
                }
                let (first, last) = (first.max(0.0), last.min(head_dim as f64 - 1.0));
                let width = if last > first { last - first } else { 0.001 };
                plain
                    .enumerate()
                    .map(|(pair, frequency)| {
                        let stretch = ((pair as f64 - first) / width).clamp(0.0, 1.0);
                        stretch * frequency / factor + (1.0 - stretch) * frequency
                    })
                    .collect()
            }
        };
        stretched.into_iter().map(|frequency| frequency as f32).collect()
    }

    /// What sines and cosines are multiplied by.
    #[must_use]
    pub fn amplitude(&self) -> f64 {
        match self.scaling {
            RopeScaling::Yarn { attention, .. } => attention,
            _ => 1.0,
        }
    }
}
