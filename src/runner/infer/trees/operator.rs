//! The operators that the runtime is taught: an ensemble each, by its number.

use std::{ops::RangeInclusive, sync::Arc};

use ort::{
    operator::{ComputeContext, Kernel, KernelContext, Operator, OperatorDomain, OperatorInput, OperatorOutput},
    value::TensorElementType,
};

use super::{
    ensemble::Ensemble,
    finish::Finish,
    graph::{DOMAIN, ENSEMBLE},
};

/// Names of the operators.
pub(super) const CLASSIFIER: &str = "TreesClassifier";
pub(super) const REGRESSOR: &str = "TreesRegressor";

/// Both operators, over these ensembles.
pub(super) fn domain(ensembles: &[Arc<Ensemble>]) -> ort::Result<OperatorDomain> {
    let trees = |name| Trees { name, ensembles: ensembles.to_vec() };
    OperatorDomain::new(DOMAIN)?.add(trees(CLASSIFIER))?.add(trees(REGRESSOR))
}

struct Trees {
    name: &'static str,
    ensembles: Vec<Arc<Ensemble>>,
}

impl Operator for Trees {
    type Kernel<'attr> = Walker;

    fn name(&self) -> &str {
        self.name
    }

    fn versions(&self) -> RangeInclusive<u32> {
        1..=1
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [OperatorInput::required(TensorElementType::Float32)]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        let scores = OperatorOutput::required(TensorElementType::Float32);
        if self.name == CLASSIFIER { vec![OperatorOutput::required(TensorElementType::Int64), scores] } else { vec![scores] }
    }

    fn create_kernel<'attr>(&self, context: &KernelContext<'attr>) -> ort::Result<Walker> {
        let number = context.get::<i64>(ENSEMBLE).and_then(|number| usize::try_from(number).ok());
        let ensemble = number.and_then(|number| self.ensembles.get(number)).ok_or_else(|| ort::Error::new("no such ensemble of trees"))?;
        Ok(Walker(ensemble.clone()))
    }
}

/// The kernel of one node in one session.
struct Walker(Arc<Ensemble>);

impl Kernel for Walker {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let input = context.input(0)?.ok_or_else(|| ort::Error::new("no input"))?;
        let (shape, x) = input.try_extract_tensor::<f32>()?;
        let (records, columns) = match **shape {
            [columns] => (1, columns),
            [records, columns] => (records, columns),
            _ => return Err(ort::Error::new(format!("an input of shape {shape} is no table"))),
        };
        let (records, columns) = (records as usize, columns as usize);
        if columns < self.0.width.max(1) {
            return Err(ort::Error::new(format!("the trees look at {} columns, and the input has {columns}", self.0.width)));
        }
        let mut sums = self.0.sums(x, columns);
        let targets = self.0.targets;
        match &self.0.finish {
            Finish::Regress(regress) => {
                regress.finish(&mut sums);
                write(context, 0, &[records, targets], &sums)
            }
            Finish::Classify(classify) => {
                let mut labels = vec![0; records];
                classify.finish(&mut sums, &mut labels);
                write(context, 0, &[records], &labels)?;
                write(context, 1, &[records, targets], &sums)
            }
        }
    }
}

fn write<T>(context: &ComputeContext, at: usize, shape: &[usize], values: &[T]) -> ort::Result<()>
where
    T: ort::value::PrimitiveTensorElementType + std::fmt::Debug + Copy,
{
    let shape: Vec<i64> = shape.iter().map(|n| *n as i64).collect();
    let mut output = context.output(at, shape)?.ok_or_else(|| ort::Error::new(format!("output {at} is not wanted")))?;
    output.try_extract_tensor_mut::<T>()?.1.copy_from_slice(values);
    Ok(())
}
