//! The picture of `facelatch calibrate`: two histograms and the threshold, as SVG.

use plotters::prelude::*;

use crate::calibrate::{BIN, Calibration, Histogram};

const SIZE: (u32, u32) = (900, 480);
const GENUINE: RGBColor = RGBColor(0x1b, 0x7f, 0x3b);
const IMPOSTOR: RGBColor = RGBColor(0xb0, 0x30, 0x30);
const AT_DOOR: RGBColor = RGBColor(0x2f, 0x55, 0xa4);

/// Distances of own pictures, of other people and of strangers at the door, each as shares of
/// their own number, and the limit as a line.
pub(super) fn draw(found: &Calibration) -> Result<String, String> {
    let mut svg = String::new();
    paint(found, SVGBackend::with_string(&mut svg, SIZE)).map_err(|error| error.to_string())?;
    Ok(svg)
}

fn paint(found: &Calibration, backend: SVGBackend<'_>) -> Result<(), Box<dyn std::error::Error>> {
    let shares = |histogram: &Histogram| -> Vec<f32> {
        let total = histogram.total().max(1) as f32;
        histogram.0.iter().map(|count| *count as f32 / total * 100.0).collect()
    };
    let (genuine, impostor) = (shares(&found.genuine_distances), shares(&found.impostor_distances));
    let at_door = shares(&found.at_door.distances);
    let highest =
        genuine.iter().chain(&impostor).chain(&at_door).fold(1.0f32, |highest, share| highest.max(*share)) * 1.05;
    let widest = BIN * genuine.len().max(1) as f32;
    let area = backend.into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(12)
        .caption(
            format!("{} people, {} pictures: distances and the limit {:.3}", found.people, found.pictures, found.limit),
            ("sans-serif", 18),
        )
        .x_label_area_size(40)
        .y_label_area_size(50)
        .build_cartesian_2d(0f32..widest, 0f32..highest)?;
    chart.configure_mesh().x_desc("distance, one picture against one").y_desc("share of comparisons, %").draw()?;
    for (shares, colour, what, total) in [
        (&genuine, GENUINE, "the same person", found.genuine_distances.total()),
        (&impostor, IMPOSTOR, "different people", found.impostor_distances.total()),
        (&at_door, AT_DOOR, "strangers' visits", found.at_door.visits),
    ] {
        if total == 0 && colour == AT_DOOR {
            continue;
        }
        let bar = |(i, share): (usize, &f32)| {
            let from = i as f32 * BIN;
            Rectangle::new([(from, 0.0), (from + BIN, *share)], colour.mix(0.45).filled())
        };
        chart
            .draw_series(shares.iter().enumerate().filter(|(_, share)| **share > 0.0).map(bar))?
            .label(format!("{what} ({total})"))
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], colour.mix(0.45).filled()));
    }
    chart
        .draw_series(LineSeries::new([(found.limit, 0.0), (found.limit, highest)], BLACK.stroke_width(2)))?
        .label(format!("limit {:.3}", found.limit))
        .legend(|(x, y)| PathElement::new([(x, y), (x + 12, y)], BLACK.stroke_width(2)));
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE)
        .border_style(BLACK)
        .draw()?;
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibrate::AtDoor;

    #[test]
    fn the_picture_has_both_histograms_and_the_limit() {
        let bins = |of: &[(usize, u32)]| {
            let mut bins = vec![0; 60];
            of.iter().for_each(|(bin, count)| bins[*bin] = *count);
            Histogram(bins)
        };
        let found = Calibration {
            people: 2,
            pictures: 5,
            limit: 0.344,
            reason: String::new(),
            stranger_ceiling: None,
            genuine: Vec::new(),
            genuine_distances: bins(&[(8, 3), (12, 1)]),
            impostor_distances: bins(&[(30, 40), (33, 2), (36, 9)]),
            pairs: Vec::new(),
            at_risk: Vec::new(),
            weak: Vec::new(),
            strangers: Vec::new(),
            at_door: AtDoor::default(),
        };
        let svg = draw(&found).unwrap();
        // Two bars of own pictures, three of others, and a square of either colour in the legend.
        let rectangles = |colour: &str| {
            svg.lines().filter(|line| line.starts_with("<rect") && line.to_uppercase().contains(colour)).count()
        };
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        assert_eq!((rectangles("#1B7F3B"), rectangles("#B03030")), (3, 4), "{svg}");
        assert!(
            svg.contains("limit 0.344") && svg.contains("the same person (4)") && svg.contains("different people (51)")
        );
        let at_door = AtDoor { visits: 3, distances: bins(&[(50, 2), (55, 1)]), ..AtDoor::default() };
        let svg = draw(&Calibration { at_door, ..found.clone() }).unwrap();
        let bars = svg.lines().filter(|line| line.starts_with("<rect") && line.contains("#2F55A4")).count();
        assert!(bars == 3 && svg.contains("visits (3)"), "{svg}");
        // A door that knows nobody has a picture too.
        let nobody = Calibration { genuine_distances: bins(&[]), impostor_distances: bins(&[]), ..found };
        assert!(draw(&nobody).unwrap().contains("the same person (0)"));
    }
}
