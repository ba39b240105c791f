//! A resolved pipeline, as people would have to write it to get the same.

use super::{
    Pipeline, PipelineSpec, Task,
    image::{Image, ImageSpec, Resize},
    text::{Text, TextSpec},
};

impl Pipeline {
    /// The pipeline section that says all of its choices, those that were derived too: what `nightshift.json` can hold.
    pub fn section(&self) -> PipelineSpec {
        let classifies = self.task.is_classification();
        let embedding = self.embedding.as_ref();
        PipelineSpec {
            task: Some(self.task),
            features: self.features.clone(),
            columns: (!self.columns.is_empty()).then(|| self.columns.clone()),
            missing: (self.image.is_none() && self.text.is_none()).then_some(self.missing),
            labels: self.labels.clone(),
            activation: classifies.then_some(self.activation),
            top_k: classifies.then_some(self.top_k),
            probabilities: classifies.then_some(self.probabilities),
            outputs: Some(self.signature.outputs.iter().map(|output| output.name.clone()).collect()),
            image: self.image.as_ref().map(Image::section),
            text: self.text.as_ref().map(Text::section),
            threshold: self.threshold,
            iou_threshold: self.detection.as_ref().map(|detection| detection.iou_threshold),
            head: self.detection.as_ref().map(|detection| detection.head),
            pooling: embedding.map(|e| e.pooling),
            normalize: embedding.map(|e| e.normalize),
            dimensions: embedding.and_then(|e| e.dimensions),
            flags: (!self.flags.is_empty() && (classifies || self.task == Task::ObjectDetection)).then(|| self.flags.clone()),
        }
    }
}

impl Image {
    fn section(&self) -> ImageSpec {
        ImageSpec {
            column: Some(self.column.clone()),
            source: Some(self.source),
            // 0 is a side without a limit, which the section says by leaving it out.
            size: self.size.map(|sides| sides.into_iter().filter(|side| *side > 0).collect()),
            resize: Some(self.resize),
            position: (self.resize == Resize::Letterbox).then_some(self.position),
            resample: Some(self.resample),
            crop: self.crop.map(Vec::from),
            pad: self.pad.map(Vec::from),
            pad_value: Some(self.pad_value),
            channels: Some(self.channels),
            layout: Some(self.layout),
            scale: Some(self.scale),
            mean: Some(self.mean.clone()),
            std: Some(self.std.clone()),
            alpha: Some(self.alpha),
        }
    }
}

impl Text {
    fn section(&self) -> TextSpec {
        TextSpec { column: Some(self.column.clone()), pair: self.pair.clone(), max_length: self.max_length }
    }
}
