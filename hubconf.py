"""vHeat for torch.hub: ``torch.hub.load('/path/to/clone', 'vheat_tiny', source='local')``."""

dependencies = ['torch', 'mmengine']


def _vheat(arch, pretrained, num_classes, in_channels, img_size, drop_path_rate):
    """Build a classifier; what it needs is imported here, so that torch.hub lists models alone."""
    from mmvheat.models import PUBLISHED_CLASSIFIERS, VHeatClassifier

    arguments = dict(
        arch=arch,
        num_classes=num_classes,
        in_channels=in_channels,
        img_size=img_size,
        drop_path_rate=drop_path_rate,
    )
    if not pretrained:
        return VHeatClassifier(**arguments)
    url = PUBLISHED_CLASSIFIERS[arch].url
    return VHeatClassifier.from_checkpoint(url, **arguments, ignore_mismatched_sizes=True)


def vheat_tiny(pretrained=False, num_classes=1000, in_channels=3, img_size=224, drop_path_rate=0.1):
    """vHeat-T, a classifier of images; see mmvheat.models.VHeatClassifier.

    Args:
        pretrained: Download the file that the authors of the paper published (ImageNet-1K), read it
            without running code, and load it; the model is in eval mode then.
        num_classes: Number of classes; 0 for the mean of the last map. With ``pretrained`` any
            number but 1000 starts a classifier anew.
        in_channels: Channels of the images.
        img_size: Size of the images, a number or (height, width), that the frequency embeddings are
            made for. Images of any other size work, too.
        drop_path_rate: Stochastic depth rate of the last block.

    Returns:
        The model: images of shape (B, in_channels, H, W) to logits of shape (B, num_classes).
    """
    return _vheat('tiny', pretrained, num_classes, in_channels, img_size, drop_path_rate)


def vheat_small(
    pretrained=False, num_classes=1000, in_channels=3, img_size=224, drop_path_rate=0.1
):
    """vHeat-S, a classifier of images; arguments as for vheat_tiny."""
    return _vheat('small', pretrained, num_classes, in_channels, img_size, drop_path_rate)


def vheat_base(pretrained=False, num_classes=1000, in_channels=3, img_size=224, drop_path_rate=0.1):
    """vHeat-B, a classifier of images; arguments as for vheat_tiny."""
    return _vheat('base', pretrained, num_classes, in_channels, img_size, drop_path_rate)
