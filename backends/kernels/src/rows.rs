//! Tensors as rows of values that lie side by side, so that a slice of a fused projection need not be copied.

use candle_core::{Result, Tensor};

/// Where the rows of a tensor are, in values from the beginning of its storage. Rows come in groups: those of a group follow each other, groups
/// may be further apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rows {
    /// The first value of the first row.
    pub(crate) start: usize,
    /// Groups: the tensor's first dimension.
    pub(crate) groups: usize,
    /// From the beginning of a group to that of the next.
    pub(crate) group_stride: usize,
    /// Rows of a group: the dimensions between the first and the last.
    pub(crate) group_rows: usize,
    /// Values of a row: the last dimension.
    pub(crate) width: usize,
}

impl Rows {
    /// The rows of a tensor of two dimensions or more. What does not lie as rows do is copied; hence the tensor that is returned.
    pub(crate) fn of(tensor: &Tensor) -> Result<(Tensor, Self)> {
        let dims = tensor.dims();
        if dims.len() < 2 {
            candle_core::bail!("a tensor of two dimensions or more was expected, not one of shape {dims:?}");
        }
        let stride = tensor.layout().stride();
        let mut expected = 1;
        let inner_is_dense = (1..dims.len()).rev().all(|dim| {
            let fits = dims[dim] == 1 || stride[dim] == expected;
            expected *= dims[dim];
            fits
        });
        let tensor = if inner_is_dense { tensor.clone() } else { tensor.contiguous()? };
        let width = dims[dims.len() - 1];
        let rows = Self {
            start: tensor.layout().start_offset(),
            groups: dims[0],
            group_stride: tensor.layout().stride()[0],
            group_rows: dims[1..dims.len() - 1].iter().product(),
            width,
        };
        Ok((tensor, rows))
    }

    /// All rows.
    pub(crate) fn count(&self) -> usize {
        self.groups * self.group_rows
    }

    /// Values of a group.
    pub(crate) fn group_width(&self) -> usize {
        self.group_rows * self.width
    }

    /// A row of the values of the storage.
    pub(crate) fn row<'a, T>(&self, values: &'a [T], row: usize) -> &'a [T] {
        let at = self.start + row / self.group_rows * self.group_stride + row % self.group_rows * self.width;
        &values[at..at + self.width]
    }

    /// All rows of a group, one after the other.
    pub(crate) fn group<'a, T>(&self, values: &'a [T], group: usize) -> &'a [T] {
        let at = self.start + group * self.group_stride;
        &values[at..at + self.group_width()]
    }
}
