//! Pictures of measurements, as SVG.

use std::{error::Error, ops::Range};

use plotters::{
    backend::SVGBackend,
    chart::{ChartBuilder, ChartContext, SeriesLabelPosition},
    coord::{
        cartesian::Cartesian2d,
        combinators::IntoLogRange,
        ranged1d::{AsRangedCoord, Ranged, ValueFormatter},
        types::RangedCoordf64,
    },
    drawing::IntoDrawingArea,
    element::{PathElement, Rectangle},
    series::LineSeries,
    style::{BLACK, Color, RGBColor, WHITE},
};

use super::statistics::Distances;

const SIZE: (u32, u32) = (720, 480);
const FONT: &str = "sans-serif";
/// Told apart by people who see no red or no green, too (Okabe and Ito 2008).
const COLORS: [RGBColor; 4] =
    [RGBColor(0, 114, 178), RGBColor(213, 94, 0), RGBColor(0, 158, 115), RGBColor(204, 121, 167)];
/// Width of a bar of the histogram, in distance.
const BIN: f32 = 0.02;

/// A line of a picture: its name and its points.
pub type Line<'a> = (&'a str, Vec<(f64, f64)>);

/// True acceptance rate over false-match rate, for each named sample.
///
/// # Errors
/// The drawing failed: in the words of the library.
pub fn roc(samples: &[(&str, &Distances)]) -> Result<String, String> {
    let lines: Vec<Line<'_>> = samples.iter().map(|(name, distances)| (*name, distances.curve())).collect();
    let least = lines.iter().flat_map(|(_, points)| points).map(|point| point.1).fold(1.0, f64::min);
    let rates = (1e-6..1.0).log_scale();
    let axes = ["false-match rate (FMR)", "true acceptance rate (TAR)"];
    draw(axes, rates, (least * 10.0).floor() / 10.0..1.0, &lines).map_err(|error| error.to_string())
}

/// Lines over steps of a training, with values from 0 to 1.
///
/// # Errors
/// As [`roc`].
pub fn training(lines: &[Line<'_>]) -> Result<String, String> {
    let last = lines.iter().flat_map(|(_, points)| points).map(|point| point.0).fold(1.0, f64::max);
    draw(["step", ""], 0.0..last, 0.0..1.0, lines).map_err(|error| error.to_string())
}

fn draw<X>([across, upwards]: [&str; 2], x: X, y: Range<f64>, lines: &[Line<'_>]) -> Result<String, Box<dyn Error>>
where
    X: AsRangedCoord<Value = f64>,
    X::CoordDescType: ValueFormatter<f64>,
{
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart =
            ChartBuilder::on(&area).margin(14).x_label_area_size(44).y_label_area_size(56).build_cartesian_2d(x, y)?;
        chart
            .configure_mesh()
            .x_desc(across)
            .y_desc(upwards)
            .x_label_formatter(&|value| {
                if *value < 0.1 && *value > 0.0 { format!("{value:e}") } else { value.to_string() }
            })
            .label_style((FONT, 13))
            .draw()?;
        for ((name, points), color) in lines.iter().zip(COLORS.iter().cycle()) {
            chart
                .draw_series(LineSeries::new(points.iter().copied(), color.stroke_width(2)))?
                .label(*name)
                .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], color.stroke_width(2)));
        }
        legend(&mut chart, SeriesLabelPosition::LowerRight)?;
        area.present()?;
    }
    Ok(text)
}

/// Says in a corner of the chart what is drawn.
fn legend<'a, X: Ranged, Y: Ranged>(
    chart: &mut ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, Y>>,
    position: SeriesLabelPosition,
) -> Result<(), Box<dyn Error>> {
    chart
        .configure_series_labels()
        .position(position)
        .label_font((FONT, 13))
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    Ok(())
}

/// How far apart pictures of one person and of different people are; `limit` is drawn in.
///
/// # Errors
/// As [`roc`].
pub fn histogram(distances: &Distances, limit: Option<f32>) -> Result<String, String> {
    bars(distances, limit).map_err(|error| error.to_string())
}

fn bars(distances: &Distances, limit: Option<f32>) -> Result<String, Box<dyn Error>> {
    let kinds = [("one person", distances.genuine()), ("different people", distances.impostor())];
    let shares = kinds.map(|(_, sorted)| shares(sorted));
    let highest = shares.iter().flatten().fold(0.0, |most: f64, share| most.max(*share));
    let widest = distances.impostor().last().copied().unwrap_or(2.0).max(0.5);
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let (x, y): (RangedCoordf64, RangedCoordf64) = ((0.0..f64::from(widest)).into(), (0.0..highest * 1.05).into());
        let mut chart =
            ChartBuilder::on(&area).margin(14).x_label_area_size(44).y_label_area_size(56).build_cartesian_2d(x, y)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_desc("distance")
            .y_desc("share of comparisons")
            .label_style((FONT, 13))
            .draw()?;
        for (((name, _), shares), color) in kinds.iter().zip(&shares).zip(COLORS) {
            let bar = |(index, share): (usize, &f64)| {
                let from = index as f64 * f64::from(BIN);
                Rectangle::new([(from, 0.0), (from + f64::from(BIN), *share)], color.mix(0.5).filled())
            };
            let drawn = shares.iter().enumerate().filter(|(_, share)| **share > 0.0).map(bar);
            chart
                .draw_series(drawn)?
                .label(*name)
                .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 14, y + 5)], color.mix(0.5).filled()));
        }
        if let Some(limit) = limit.map(f64::from) {
            chart
                .draw_series(LineSeries::new([(limit, 0.0), (limit, highest)], BLACK.stroke_width(1)))?
                .label(format!("threshold {limit:.3}"))
                .legend(|(x, y)| PathElement::new(vec![(x, y), (x + 14, y)], BLACK));
        }
        legend(&mut chart, SeriesLabelPosition::UpperRight)?;
        area.present()?;
    }
    Ok(text)
}

/// Share of the distances in each bin from 0 to 2.
fn shares(sorted: &[f32]) -> Vec<f64> {
    let mut counts = vec![0usize; (2.0 / BIN).ceil() as usize];
    for distance in sorted {
        let bin = ((distance / BIN) as usize).min(counts.len() - 1);
        counts[bin] += 1;
    }
    counts.into_iter().map(|count| count as f64 / sorted.len() as f64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Distances {
        let spread = |from: f32, to: f32, count: usize| {
            (0..count).map(|i| from + (to - from) * i as f32 / count as f32).collect()
        };
        Distances::new(spread(0.1, 0.5, 200), spread(0.3, 1.1, 5000)).unwrap()
    }

    #[test]
    fn shares_of_bins_add_up() {
        let shares = shares(&[0.0, 0.01, 0.03, 2.0]);
        assert_eq!((shares[0], shares[1], shares[99]), (0.5, 0.25, 0.25));
        assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn pictures_are_svg_with_their_names_in_them() {
        let curve = roc(&[("one against one", &sample()), ("three against one", &sample())]).unwrap();
        assert!(curve.starts_with("<svg") && curve.contains("three against one") && curve.contains("1e-4"), "{curve}");
        let bars = histogram(&sample(), Some(0.344)).unwrap();
        assert!(bars.contains("different people") && bars.contains("threshold 0.344"));
        assert!(bars.len() < 60_000, "{} bytes", bars.len());
        let lines = training(&[("loss", vec![(0.0, 0.5), (100.0, 0.1)])]).unwrap();
        assert!(lines.contains("loss") && lines.contains("step"));
    }
}
