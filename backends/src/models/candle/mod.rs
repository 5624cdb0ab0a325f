//! Models on a device of candle's: a GPU, or, for the tests, the processor.

mod layers;
#[cfg(test)]
mod tests;

use candle_core::{DType, Device, Result, Tensor};
use raglan_encoder::{EncoderConfig, ScoreHead, Weights};

use self::layers::{Head, Layers, PlaceError, Placer};
pub(crate) use self::layers::{first, greatest, sum};
use super::{GpuPrecision, LoadError, Model, ModelFolder, Sequence};

/// Padded tokens up to which more texts cost a GPU hardly anything.
const FEW_TOKENS: usize = 2_048;
/// Beyond that, one token in so many may be padding.
const PADDING: usize = 8;

/// What is read of the states of texts that went through the layers together.
pub(crate) trait DeviceReading: Send + Sync + 'static {
    /// A row for each text, in 32 bits, of states `[texts, length, width]`. `mask`, where something is padded, has a 1 for each token.
    fn read(&self, states: &Tensor, mask: Option<&Tensor>) -> Result<Tensor>;

    /// The answer that a row is.
    fn finish(&self, row: Vec<f32>) -> Vec<f32> {
        row
    }
}

/// A model whose weights lie on a device.
pub(crate) struct OnDevice<R> {
    layers: Layers,
    config: EncoderConfig,
    device: Device,
    name: String,
    bytes: usize,
    reading: R,
}

/// The GPU of this number.
///
/// # Errors
/// [`LoadError::Device`] where there is none, or this program cannot use one.
pub(crate) fn cuda(number: usize) -> std::result::Result<Device, LoadError> {
    let device = format!("cuda:{number}");
    if !cfg!(feature = "cuda") {
        return Err(LoadError::no_cuda(device));
    }
    Device::new_cuda(number).map_err(|error| {
        // candle adds a backtrace where one is asked for.
        let said = error.to_string().lines().next().unwrap_or_default().to_owned();
        let reason =
            format!("{said}; it needs an NVIDIA GPU with its driver and the libraries of CUDA 13, or run the model on the cpu");
        LoadError::Device { device, reason }
    })
}

impl<R> OnDevice<R> {
    /// Puts a model's weights onto a device.
    ///
    /// # Errors
    /// [`LoadError`] where a file is missing or wrong, the model is none that can be run, or the device has no room.
    pub(crate) fn load(
        folder: &ModelFolder,
        device: &Device,
        precision: GpuPrecision,
        reading: impl FnOnce(&mut Weights, &EncoderConfig, &Device) -> std::result::Result<R, LoadError>,
    ) -> std::result::Result<Self, LoadError> {
        let config = EncoderConfig::read(folder.path())?;
        let mut weights = Weights::open(folder.path())?;
        let dtype = match precision {
            GpuPrecision::F32 => DType::F32,
            GpuPrecision::F16 => DType::F16,
        };
        let mut placer = Placer { weights: &mut weights, device, dtype, bytes: 0 };
        let layers = Layers::load(&config, &mut placer).map_err(|error| match error {
            PlaceError::Files(error) => error.into(),
            PlaceError::Device(error) => device_error(device, &error),
        })?;
        let bytes = placer.bytes;
        let reading = reading(&mut weights, &config, device)?;
        let name = format!("{}, {}", describe(device), dtype.as_str());
        Ok(Self { layers, config, device: device.clone(), name, bytes, reading })
    }

    /// Its shape.
    pub(crate) fn config(&self) -> &EncoderConfig {
        &self.config
    }
}

impl<R: DeviceReading> OnDevice<R> {
    /// Runs the largest batch once, so that a device without room for it is found out now, and the first question does not wait for what a device
    /// prepares at its first use.
    ///
    /// # Errors
    /// [`LoadError::Device`] with what the device said.
    pub(crate) fn warm_up(
        &self,
        max_tokens: usize,
        batch_tokens: usize,
    ) -> std::result::Result<(), LoadError> {
        let text = |tokens: usize| Sequence { ids: vec![0; tokens], types: vec![0; tokens] };
        let longest = text(max_tokens.max(1));
        let full = vec![&longest; (batch_tokens / longest.len()).max(1)];
        for batch in [&full[..], &[&text(1)]] {
            self.answer(batch)
                .map_err(|reason| LoadError::Device { device: describe(&self.device), reason })?;
        }
        Ok(())
    }

    /// What is wrong with a text. A device would read what lies beside its tables.
    fn check(&self, text: &Sequence) -> std::result::Result<(), String> {
        let config = &self.config;
        if text.len() > config.positions() || text.len() != text.types.len() || text.is_empty() {
            return Err(format!("the model has no positions for {} tokens", text.len()));
        }
        let missing = |(id, kind): &(&u32, &u32)| {
            **id as usize >= config.vocabulary || **kind as usize >= config.types.max(1)
        };
        match text.ids.iter().zip(&text.types).find(missing) {
            Some((id, kind)) => Err(format!("the model has no token {id} of type {kind}")),
            None => Ok(()),
        }
    }

    /// A row for each text of a group, on the device. It may be computing still.
    fn run(&self, texts: &[&Sequence]) -> Result<Tensor> {
        let length = texts.iter().map(|text| text.len()).max().unwrap_or(0);
        let shape = (texts.len(), length);
        let padded = |part: fn(&Sequence) -> &[u32]| {
            let mut values = Vec::with_capacity(texts.len() * length);
            for text in texts {
                values.extend_from_slice(part(text));
                values.resize(values.len() + length - text.len(), 0);
            }
            Tensor::from_vec(values, shape, &self.device)
        };
        let (ids, types) = (padded(|text| &text.ids)?, padded(|text| &text.types)?);
        let is_padded = texts.iter().any(|text| text.len() < length);
        let mask = is_padded.then(|| {
            let row = |text: &&Sequence| (0..length).map(|at| f32::from(at < text.len())).collect::<Vec<_>>();
            Tensor::from_vec(texts.iter().flat_map(row).collect(), shape, &self.device)
        });
        let mask = mask.transpose()?;
        let states = self.layers.forward(&ids, &types, mask.as_ref())?;
        self.reading.read(&states, mask.as_ref())
    }
}

impl<R: DeviceReading> Model for OnDevice<R> {
    fn runs_on(&self) -> String {
        self.name.clone()
    }

    fn weights_bytes(&self) -> usize {
        self.bytes
    }

    fn answer(&self, batch: &[&Sequence]) -> std::result::Result<Vec<Vec<f32>>, String> {
        batch.iter().try_for_each(|text| self.check(text))?;
        let lengths: Vec<usize> = batch.iter().map(|text| text.len()).collect();
        let groups = groups(&lengths);
        let failed = |error: candle_core::Error| error.to_string();
        // All are begun before the first is waited for.
        let begun: Vec<Tensor> = groups
            .iter()
            .map(|group| self.run(&group.iter().map(|index| batch[*index]).collect::<Vec<_>>()))
            .collect::<Result<_>>()
            .map_err(failed)?;
        let mut answers = vec![Vec::new(); batch.len()];
        for (group, rows) in groups.iter().zip(begun) {
            for (index, row) in group.iter().zip(rows.to_vec2::<f32>().map_err(failed)?) {
                answers[*index] = self.reading.finish(row);
            }
        }
        Ok(answers)
    }
}

/// Texts of these lengths in groups that are padded to one length, the longest first: alike enough that little is padded, and not too few.
fn groups(lengths: &[usize]) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|index| std::cmp::Reverse(lengths[*index]));
    let mut groups: Vec<Vec<usize>> = Vec::new();
    // Of the last group: the length of its longest text, and its tokens.
    let (mut longest, mut tokens) = (0, 0);
    for index in order {
        let length = lengths[index];
        match groups.last_mut() {
            Some(group) if fits((group.len() + 1) * longest, tokens + length) => {
                tokens += length;
                group.push(index);
            }
            _ => {
                (longest, tokens) = (length, length);
                groups.push(vec![index]);
            }
        }
    }
    groups
}

fn fits(padded: usize, tokens: usize) -> bool {
    padded <= FEW_TOKENS || (padded - tokens) * PADDING <= padded
}

/// A cross-encoder's head.
pub(crate) struct DeviceScores(Head);

impl DeviceScores {
    /// Reads the head of a cross-encoder, and puts it onto the device.
    ///
    /// # Errors
    /// [`LoadError`] where the model has none, or the device has no room.
    pub(crate) fn load(
        folder: &ModelFolder,
        weights: &mut Weights,
        config: &EncoderConfig,
        device: &Device,
    ) -> std::result::Result<Self, LoadError> {
        let head = ScoreHead::read(folder.path(), weights, config.width)?;
        Head::put(head, device).map(Self).map_err(|error| device_error(device, &error))
    }
}

impl DeviceReading for DeviceScores {
    fn read(&self, states: &Tensor, _: Option<&Tensor>) -> Result<Tensor> {
        self.0.forward(states)
    }
}

fn describe(device: &Device) -> String {
    match device.location() {
        candle_core::DeviceLocation::Cpu => "candle on the cpu".to_owned(),
        candle_core::DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        candle_core::DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    }
}

fn device_error(device: &Device, error: &candle_core::Error) -> LoadError {
    LoadError::Device { device: describe(device), reason: error.to_string() }
}
