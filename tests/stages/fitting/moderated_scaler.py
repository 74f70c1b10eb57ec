"""What features are standardized by, written once more on scikit-learn's scaler: what heads are compared with."""

import numpy as np
from scipy.ndimage import median_filter
from scipy.stats import iqr
from sklearn.preprocessing import StandardScaler


class ModeratedScaler(StandardScaler):
    """Scikit-learn's, but that a variance counts for the rows and that of the 16 features on either side for 16.

    Half of the variances have to be within four orders of magnitude, each against its neighbors', and no doubt of it.
    """

    def fit(self, X, y=None, sample_weight=None):
        super().fit(X, y, sample_weight)
        if self.with_std:
            varies = self.var_ > (1e-6 * self.mean_) ** 2
            variance, seen = self.var_[varies], len(X) if sample_weight is None else np.sum(sample_weight)
            if len(variance) > 32:
                near = median_filter(variance, size=33, mode="mirror")
                apart = iqr(np.log10(variance / near))
                assert not 3 < apart < 4
                variance = variance if apart >= 4 else (seen * variance + 16 * near) / (seen + 16)
            self.scale_ = np.ones_like(self.var_)
            self.scale_[varies] = np.sqrt(variance)
        return self
