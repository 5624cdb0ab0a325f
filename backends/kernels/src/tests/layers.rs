use candle_core::{D, DType, Device, Result, Tensor};

use super::{TYPES, assert_close, random, values};
use crate::{add_rms_norm, rms_norm, rope, silu_mul};

const EPSILON: f32 = 1e-5;

/// The norm by candle's own operations, in `f32`.
fn expected_norm(x: &Tensor, weight: &Tensor) -> Result<Vec<f32>> {
    let (x, weight) = (x.to_dtype(DType::F32)?, weight.to_dtype(DType::F32)?);
    let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
    let normed = x.broadcast_div(&(mean + f64::from(EPSILON))?.sqrt()?)?;
    values(&normed.broadcast_mul(&weight)?)
}

#[test]
fn rows_are_normed_by_themselves() -> Result<()> {
    for dtype in TYPES {
        for shape in [&[37, 96][..], &[5, 4, 64], &[1, 8192], &[700, 33]] {
            let x = random(1, shape, dtype)?;
            let weight = random(2, &shape[shape.len() - 1..], dtype)?;
            let got = rms_norm(&x, &weight, EPSILON)?;
            assert_eq!(got.dims(), shape);
            assert_close(&values(&got)?, &expected_norm(&x, &weight)?, dtype);
        }
    }
    Ok(())
}

#[test]
fn heads_of_a_fused_projection_are_normed_where_they_are() -> Result<()> {
    let weight = random(2, &[32], DType::F32)?;
    let heads = random(1, &[9, 6, 32], DType::F32)?.narrow(1, 1, 4)?;
    assert!(!heads.is_contiguous());
    assert_close(
        &values(&rms_norm(&heads, &weight, EPSILON)?)?,
        &expected_norm(&heads, &weight)?,
        DType::F32,
    );
    // Where the last dimension is not dense there is a copy, and the same result.
    let turned = random(3, &[32, 9], DType::F32)?.t()?;
    assert_close(
        &values(&rms_norm(&turned, &weight, EPSILON)?)?,
        &expected_norm(&turned, &weight)?,
        DType::F32,
    );
    Ok(())
}

#[test]
fn the_fused_residual_is_the_sum_and_then_the_norm() -> Result<()> {
    for dtype in TYPES {
        let (x, residual) = (random(1, &[50, 200], dtype)?, random(2, &[50, 200], dtype)?);
        let weight = random(3, &[200], dtype)?;
        let (normed, sum) = add_rms_norm(&x, &residual, &weight, EPSILON)?;
        let expected = (x + residual)?;
        assert_eq!(values(&sum)?, values(&expected)?);
        assert_eq!(values(&normed)?, values(&rms_norm(&expected, &weight, EPSILON)?)?);
    }
    Ok(())
}

#[test]
fn pairs_of_values_turn_by_the_angle_of_their_position() -> Result<()> {
    let (tokens, heads, dim, table) = (23, 3, 16, 40);
    let angles: Vec<f32> = (0..table * dim / 2)
        .map(|at| (at / (dim / 2)) as f32 / 100f32.powf((at % (dim / 2)) as f32 / 8.0))
        .collect();
    let angles = Tensor::from_vec(angles, (table, dim / 2), &Device::Cpu)?;
    let (cos, sin) = (angles.cos()?, angles.sin()?);
    let positions: Vec<u32> = (0..tokens as u32).map(|token| token * 7 % 40).collect();
    let indexes = Tensor::new(positions, &Device::Cpu)?;
    for dtype in TYPES {
        let x = random(4, &[tokens, heads + 2, dim], dtype)?.narrow(1, 1, heads)?;
        let got = rope(&x, &cos, &sin, &indexes)?;

        let wide = x.to_dtype(DType::F32)?;
        let (low, high) = (wide.narrow(2, 0, dim / 2)?, wide.narrow(2, dim / 2, dim / 2)?);
        let pick = |table: &Tensor| table.index_select(&indexes, 0)?.unsqueeze(1);
        let (cos, sin) = (pick(&cos)?, pick(&sin)?);
        let expected = Tensor::cat(
            &[
                (low.broadcast_mul(&cos)? - high.broadcast_mul(&sin)?)?,
                (high.broadcast_mul(&cos)? + low.broadcast_mul(&sin)?)?,
            ],
            2,
        )?;
        assert_close(&values(&got)?, &values(&expected)?, dtype);
    }
    let beyond = Tensor::new(vec![40u32; tokens], &Device::Cpu)?;
    let x = random(4, &[tokens, heads, dim], DType::F32)?;
    assert!(rope(&x, &cos, &sin, &beyond).unwrap_err().to_string().contains("beyond the tables"));
    Ok(())
}

#[test]
fn the_gate_opens_smoothly() -> Result<()> {
    for dtype in TYPES {
        let fused = (random(6, &[61, 2 * 48], dtype)? * 20.0)?;
        let (gate, up) = (fused.narrow(1, 0, 48)?, fused.narrow(1, 48, 48)?);
        let wide = gate.to_dtype(DType::F32)?;
        let expected = (wide.silu()? * up.to_dtype(DType::F32)?)?;
        assert_close(&values(&silu_mul(&gate, &up)?)?, &values(&expected)?, dtype);
    }
    Ok(())
}

#[test]
fn what_does_not_fit_is_refused() -> Result<()> {
    let x = random(1, &[4, 8], DType::F32)?;
    assert!(rms_norm(&x, &random(1, &[7], DType::F32)?, EPSILON).is_err());
    assert!(rms_norm(&x, &random(1, &[8], DType::BF16)?, EPSILON).is_err());
    assert!(silu_mul(&x, &random(1, &[4, 7], DType::F32)?).is_err());
    let integers = Tensor::zeros((4, 8), DType::U32, &Device::Cpu)?;
    let error = silu_mul(&integers, &integers).unwrap_err().to_string();
    assert!(error.contains("takes f32, bf16 or f16"), "{error}");
    Ok(())
}
