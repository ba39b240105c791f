"""The two tabular models as ONNX's own operators, `label` and `probabilities` out: what scikit-learn's exporter makes of them, too."""
import numpy as np
import onnx
from onnx import TensorProto as T, helper as h


def boosted_trees(x, y, seed):
    """100 trees of 31 leaves at most, as TreeEnsembleClassifier."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    fitted = HistGradientBoostingClassifier(max_iter=100, max_leaf_nodes=31, early_stopping=False, random_state=seed).fit(x, y)
    nodes = {name: [] for name in ("treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids")}
    leaves = {"treeids": [], "nodeids": [], "weights": []}
    for tree, (predictor,) in enumerate(fitted._predictors):
        for index, node in enumerate(predictor.nodes):
            leaf = bool(node["is_leaf"])
            # Inputs are float32: the largest of those that are not above the threshold divides them in the same way.
            value = np.float32(node["num_threshold"])
            if value > node["num_threshold"]:
                value = np.nextafter(value, np.float32(-np.inf))
            row = (tree, index, 0 if leaf else int(node["feature_idx"]), 0.0 if leaf else float(value), "LEAF" if leaf else "BRANCH_LEQ",
                   0 if leaf else int(node["left"]), 0 if leaf else int(node["right"]))
            for values, value in zip(nodes.values(), row):
                values.append(value)
            if leaf:
                for values, value in zip(leaves.values(), (tree, index, float(node["value"]))):
                    values.append(value)
    attributes = {f"nodes_{name}": values for name, values in nodes.items()} | {f"class_{name}": values for name, values in leaves.items()}
    attributes |= {"class_ids": [0] * len(leaves["weights"]), "base_values": [float(fitted._baseline_prediction.ravel()[0])]}
    return fitted, graph("TreeEnsembleClassifier", "boosted_trees", classlabels_int64s=[0, 1], post_transform="LOGISTIC", **attributes)


def logistic_regression(x, y):
    """On standardised columns, the standardising folded into the weights."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    fitted = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(x, y)
    scaler, model = fitted[0], fitted[1]
    weights = model.coef_[0] / scaler.scale_
    bias = float(model.intercept_[0] - weights @ scaler.mean_)
    weights = weights.astype(np.float32).tolist()
    return fitted, graph("LinearClassifier", "logistic_regression", classlabels_ints=[0, 1], post_transform="LOGISTIC", multi_class=0,
                         coefficients=[-w for w in weights] + weights, intercepts=[-bias, bias])


def graph(operator, name, **attributes):
    node = h.make_node(operator, ["columns"], ["label", "probabilities"], domain="ai.onnx.ml", **attributes)
    made = h.make_graph([node], name, [h.make_tensor_value_info("columns", T.FLOAT, ["batch", 30])],
                        [h.make_tensor_value_info("label", T.INT64, ["batch"]), h.make_tensor_value_info("probabilities", T.FLOAT, ["batch", 2])])
    model = h.make_model(made, opset_imports=[h.make_opsetid("", 17), h.make_opsetid("ai.onnx.ml", 3)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    return model
