use candle_core::{Result, bail};

use crate::{element::Element, rows::Rows};

/// Writes each token's values into its slot.
pub(crate) fn write<T: Element>(cache: &mut [T], values: &[T], rows: &Rows, slots: &[u32]) -> Result<()> {
    let width = rows.group_width();
    for (token, &slot) in slots.iter().enumerate() {
        let at = slot as usize * width;
        let Some(place) = cache.get_mut(at..at + width) else {
            bail!("write_kv: slot {slot} of token {token} is beyond the cache");
        };
        place.copy_from_slice(rows.group(values, token));
    }
    Ok(())
}
