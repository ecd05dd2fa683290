//! Pictures of measurements, as SVG.

use std::{error::Error, ops::Range};

use plotters::{
    backend::SVGBackend,
    chart::{ChartBuilder, ChartContext, SeriesLabelPosition},
    coord::{
        Shift,
        cartesian::Cartesian2d,
        combinators::IntoLogRange,
        ranged1d::{AsRangedCoord, Ranged, ValueFormatter},
        types::RangedCoordf64,
    },
    drawing::{DrawingArea, IntoDrawingArea},
    element::{DashedPathElement, DynElement, IntoDynElement, PathElement, Rectangle, Text},
    series::LineSeries,
    style::{BLACK, Color, RGBColor, WHITE},
};

use super::{population::ENOUGH_PAIRS, statistics::Distances};

const SIZE: (u32, u32) = (720, 480);
const FONT: &str = "sans-serif";
/// Told apart by people who see no red or no green, too (Okabe and Ito 2008).
const COLORS: [RGBColor; 4] =
    [RGBColor(0, 114, 178), RGBColor(213, 94, 0), RGBColor(0, 158, 115), RGBColor(204, 121, 167)];
/// For many lines: the same and more, each solid, dashed and dotted.
const MANY: [RGBColor; 7] =
    [COLORS[0], COLORS[1], COLORS[2], COLORS[3], BLACK, RGBColor(230, 159, 0), RGBColor(86, 180, 233)];
/// Pixels of a picture with its legend outside, of the legend, and of a line of text.
const WIDE: (i32, i32) = (1000, 560);
const LEGEND: i32 = 270;
const ROW: i32 = 18;
/// The smallest false-match rate that is asked for.
pub const LEAST_RATE: f64 = 1e-6;
/// Width of a bar of the histogram, in distance.
const BIN: f32 = 0.02;

type Pixel = (i32, i32);

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

/// A population in the picture of [`populations`].
pub struct Curve {
    pub name: String,
    /// Distance, and share of comparisons of different people within it; nearest first.
    pub points: Vec<(f64, f64)>,
    /// Smaller shares rest on too few pairs of people, and are drawn pale.
    pub evidence_from: f64,
}

impl Curve {
    /// The distance within which at least this share is.
    pub fn at(&self, share: f64) -> f64 {
        self.points.iter().find(|point| point.1 >= share).map_or(f64::INFINITY, |point| point.0)
    }
}

/// False-match rate over distance, for each population; `limits`, the nearest first, are
/// named upright lines.
///
/// # Errors
/// As [`roc`].
pub fn populations(curves: &[Curve], limits: &[(String, f64)]) -> Result<String, String> {
    tails(curves, limits).map_err(|error| error.to_string())
}

fn tails(curves: &[Curve], limits: &[(String, f64)]) -> Result<String, Box<dyn Error>> {
    let top = ROW * (limits.len() + 1) as i32;
    let height = (top + ROW * (curves.len() + 1) as i32).max(WIDE.1);
    let mut text = String::new();
    {
        let size = (WIDE.0 as u32, height as u32);
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .margin(14)
            .margin_top(top)
            .margin_right(LEGEND)
            .x_label_area_size(44)
            .y_label_area_size(56)
            .build_cartesian_2d(across(curves, limits), (LEAST_RATE..1.0).log_scale())?;
        chart
            .configure_mesh()
            .x_desc("distance")
            .y_desc("share of comparisons of different people (FMR)")
            .y_label_formatter(&|rate| if *rate < 1.0 { format!("{rate:e}") } else { "1".into() })
            .max_light_lines(1)
            .label_style((FONT, 13))
            .draw()?;
        let pixel = |point: &(f64, f64)| chart.backend_coord(point);
        for (row, (name, distance)) in (1..).zip(limits) {
            let (x, foot) = pixel(&(*distance, LEAST_RATE));
            area.draw(&PathElement::new([(x, ROW * row), (x, foot)], BLACK))?;
            area.draw(&Text::new(name.clone(), (x + 4, ROW * row), (FONT, 13)))?;
        }
        for (number, curve) in curves.iter().enumerate() {
            let points: Vec<Pixel> = curve.points.iter().map(pixel).collect();
            tail(&area, curve, &points, number, top)?;
        }
        let below = top + ROW * curves.len() as i32;
        let pale = format!("pale: fewer than {ENOUGH_PAIRS} pairs of people");
        area.draw(&Text::new(pale, (WIDE.0 - LEGEND + 10, below), (FONT, 13)))?;
        area.present()?;
    }
    Ok(text)
}

/// A curve, pale up to where evidence begins, and its line of the legend.
fn tail(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    curve: &Curve,
    points: &[Pixel],
    number: usize,
    top: i32,
) -> Result<(), Box<dyn Error>> {
    let evidence = curve.points.partition_point(|(_, share)| *share < curve.evidence_from);
    area.draw(&stroke(&points[..points.len().min(evidence + 1)], number, 0.35))?;
    area.draw(&stroke(&points[evidence..], number, 1.0))?;
    let (x, y) = (WIDE.0 - LEGEND + 10, top + ROW * number as i32);
    area.draw(&stroke(&[(x, y + 7), (x + 28, y + 7)], number, 1.0))?;
    area.draw(&Text::new(curve.name.clone(), (x + 34, y), (FONT, 13)))?;
    Ok(())
}

/// Tenths around all that is drawn.
fn across(curves: &[Curve], limits: &[(String, f64)]) -> Range<f64> {
    let points = curves.iter().flat_map(|curve| &curve.points).map(|(distance, _)| *distance);
    let distances: Vec<f64> = points.chain(limits.iter().map(|(_, distance)| *distance)).collect();
    let nearest = distances.iter().copied().fold(2.0, f64::min);
    let farthest = distances.iter().copied().fold(0.1, f64::max);
    (nearest * 10.0).floor() / 10.0..(farthest * 10.0).ceil() / 10.0
}

/// A line of pixels, in the colour and the dashes of its number.
fn stroke<'a>(points: &[Pixel], number: usize, strength: f64) -> DynElement<'static, SVGBackend<'a>, Pixel> {
    let style = MANY[number % MANY.len()].mix(strength).stroke_width(2);
    match number / MANY.len() {
        0 => PathElement::new(points.to_vec(), style).into_dyn(),
        1 => DashedPathElement::new(points.to_vec(), 7, 4, style).into_dyn(),
        _ => DashedPathElement::new(points.to_vec(), 2, 4, style).into_dyn(),
    }
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

    /// The pixels of all lines of a picture, in the order drawn.
    fn lines(svg: &str) -> Vec<Vec<Pixel>> {
        let number = |text: &str| text.parse::<i32>().unwrap();
        let pixel = |text: &str| text.split_once(',').map(|(x, y)| (number(x), number(y)));
        let points = svg.split("points=\"").skip(1).map(|rest| rest.split('"').next().unwrap());
        points.map(|points| points.split_whitespace().filter_map(pixel).collect()).collect()
    }

    #[test]
    fn curves_of_populations_go_through_their_points() {
        let points = vec![(0.5, 1e-6), (0.8, 1e-4), (1.1, 1e-2), (1.4, 1.0)];
        let curve = Curve { name: "<people>".into(), points, evidence_from: 1e-3 };
        let picture = populations(&[curve], &[("limit 0.8".into(), 0.8)]).unwrap();
        assert!(picture.contains("&lt;people&gt;") && picture.contains("limit 0.8"), "{picture}");
        let drawn = lines(&picture);
        let [.., limit, pale, evidence, legend] = &drawn[..] else { panic!("{drawn:?}") };
        // Three equal steps to the right and upwards, the second of them to the limit.
        let [first, second, third] = pale[..] else { panic!("{pale:?}") };
        let even = |first: i32, second: i32, third: i32| (third - second).abs_diff(second - first) < 2;
        assert!(even(first.0, second.0, third.0) && even(first.1, second.1, third.1), "{pale:?}");
        assert!(first.1 > second.1 && evidence[0] == third && evidence.len() == 2, "{evidence:?}");
        assert_eq!((limit[0].0, limit[1]), (second.0, (second.0, first.1)));
        assert!(legend.iter().all(|point| point.0 > evidence[1].0), "{legend:?}");
    }

    #[test]
    fn many_populations_and_none_are_drawn() {
        let curve = |i: i32| Curve {
            name: format!("group {i}"),
            points: vec![(0.1 + f64::from(i) / 50.0, 1.0)],
            evidence_from: 1.0,
        };
        let picture = populations(&(0..40).map(curve).collect::<Vec<_>>(), &[]).unwrap();
        assert!((0..40).all(|i| picture.contains(&format!("group {i}"))));
        let none = Curve { points: Vec::new(), ..curve(0) };
        assert!(populations(&[none], &[]).unwrap().contains("group 0"));
    }
}
